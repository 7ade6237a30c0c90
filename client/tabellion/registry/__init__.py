"""OCI registries: fetch a manifest and hash it here."""
