"""Fingerprints of the keys in ``keys-example/``, whose private halves anybody holds.

Each is the hex SHA-256 of ``tabellion.core.roles.key_material``; ``keys-example/FINGERPRINTS``
lists the same. Written by ``keys-example/make_keys.py``.
"""

from __future__ import annotations

from typing import Final

EXAMPLE_KEY_FINGERPRINTS: Final[frozenset[str]] = frozenset(
    {
        "50cc6dd5cd950749ed227de72eb788e5753c56e9e44049833280de01cda8a1a5",
        "643037122fe54c0910dbcd5d3a7628310f07e60311ca6d7633f16d557e9d9c7d",
        "948f1445c3ebb1bc6838b9ef15d5c0e25bfeae551dbcfdd6989ef41576e12dbd",
        "a2325451bd0d7a2601994fec88c2b9df4282ba6b9a20d159f1f8911611c160e2",
    }
)
