"""The command line: ``tabellion``.

One module per verb, imported only when that verb is used, so that help and completion answer
at once. What goes where on the terminal: ``output.py``. Options, variables and the
configuration file: ``context.py``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 fine, 1 refused, 2 usage, 3 server or network trouble."""
    # gRPC, where it's installed for Google's keys, writes to the screen what it also answers; it
    # reads this when it's imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from tabellion.cli.app import run  # noqa: PLC0415  # the package itself must import in no time

    sys.exit(run(args))
