"""Verification: the client workflow with its cache."""
