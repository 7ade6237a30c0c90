"""Tabellion: verify what an image reference means before it runs."""
