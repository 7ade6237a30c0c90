"""The engine wrapper: verify, pull by digest, then run the command as given."""

from tabellion.docker.wrapper import run_engine

__all__ = ["run_engine"]
