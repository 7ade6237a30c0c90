"""The engine wrapper: verify, pull by digest, then run the command as given."""

from tabellion.docker.images import SignedImage, Sources
from tabellion.docker.wrapper import pull_image, run_engine

__all__ = ["SignedImage", "Sources", "pull_image", "run_engine"]
