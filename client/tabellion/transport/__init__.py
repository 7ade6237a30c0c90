"""The network: bounded fetching over HTTP."""
