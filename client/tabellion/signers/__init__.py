"""Keys that live elsewhere, named by a URI: security tokens, key management services, GnuPG.

A key there never leaves; what is here of it is a public key and a URI. ``RemoteSigners`` turns the
two into a private key object that signs by asking, so that all else need not know the difference.
"""
