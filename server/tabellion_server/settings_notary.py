"""What Notary's configuration keys are called here, for those who bring one along.

Spec: notary-v1 section 12.
"""

from __future__ import annotations

from typing import Final

_MANUAL: Final = "see server/MIGRATING.md"
_NO_SIGNER: Final = f"there is no signer process here: leave it out; {_MANUAL}"
# Key, or the section that holds it, to what to do instead.
_KNOWN: Final = {
    "server.http_addr": "here it is server.listen",
    "server.grpc_addr": _NO_SIGNER,
    "server.tls_cert_file": "here it is certificate in [server.tls]",
    "server.tls_key_file": "here it is key in [server.tls]",
    "server.client_ca_file": f"put a proxy in front that asks for client certificates; {_MANUAL}",
    "trust_service": _NO_SIGNER,
    "storage.backend": 'here storage.url tells: "sqlite:///FILE"',
    "storage.db_url": 'here it is storage.url, "sqlite:///FILE"; what is in the old database comes '
    "by: tabellion-server import-notary",
    "storage.default_alias": f"it's for import-notary, once: --passphrase-env; {_MANUAL}",
    "auth.options": "here its keys are in [auth] itself, rootcertbundle as root_cert_bundle and "
    "autoredirect as auto_redirect",
    "repositories.gun_prefixes": "here it is notary.gun_prefixes",
    "caching.max_age.current_metadata": 'here it is notary.max_age_current, such as "300s"',
    "caching.max_age.consistent_metadata": 'here it is notary.max_age_consistent, such as "30d"',
    "logging.level": "here it is server.log_level",
    "reporting": 'leave it out; logs are for collectors with server.log_format = "json"',
}


def our_word_for(key: str) -> str:
    """Say what a key of notary-server or notary-signer is here, or "" if it's none of theirs."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        found = _KNOWN.get(".".join(parts[:length]))
        if found is not None:
            return found
    return ""
