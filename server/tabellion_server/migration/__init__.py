"""Bringing what a Notary server holds over to this one."""
