"""The trust server."""
