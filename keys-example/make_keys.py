# ruff: noqa: INP001  (a script, not a package)
"""Makes the throw-away keys of this folder, the list of their fingerprints, and the server's copy.

Run from the repository, with Tabellion installed: python keys-example/make_keys.py
Keys that exist are kept; delete a .pem file to have it made anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tabellion.publish.private_keys import load_private_key
from tabellion.publish.public_keys import fingerprint_of

HERE = Path(__file__).resolve().parent
SERVER_COPY = HERE.parent / "server/tabellion_server/keys/example_keys.py"
KEYS = {
    "root": ed25519.Ed25519PrivateKey.generate,
    "targets": ed25519.Ed25519PrivateKey.generate,
    "signer": lambda: ec.generate_private_key(ec.SECP256R1()),
    "signer-rsa": lambda: rsa.generate_private_key(65537, 3072),
}
TEMPLATE = '''"""Fingerprints of the keys in ``keys-example/``, whose private halves anybody holds.

Each is the hex SHA-256 of ``tabellion.core.roles.key_material``; ``keys-example/FINGERPRINTS``
lists the same. Written by ``keys-example/make_keys.py``.
"""

from __future__ import annotations

from typing import Final

EXAMPLE_KEY_FINGERPRINTS: Final[frozenset[str]] = frozenset(
    {{
{lines}
    }}
)
'''


def main() -> None:
    """Make what's missing, then write both lists."""
    found: dict[str, str] = {}
    for name, generate in KEYS.items():
        path = HERE / f"{name}.pem"
        if not path.exists():
            pem = generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            path.write_bytes(pem)
            path.chmod(0o600)
        found[name] = fingerprint_of(load_private_key(path.read_bytes()).public_key)
    listing = "".join(f"{value}  {name}.pem\n" for name, value in found.items())
    (HERE / "FINGERPRINTS").write_text(listing, encoding="ascii")
    lines = "\n".join(f'        "{value}",' for value in sorted(found.values()))
    SERVER_COPY.write_text(TEMPLATE.format(lines=lines), encoding="ascii")
    sys.stderr.write(f"{len(found)} keys in {HERE}\n")


if __name__ == "__main__":
    main()
