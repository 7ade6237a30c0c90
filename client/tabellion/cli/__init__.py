"""The command line: ``tabellion``.

One module per verb, imported only when that verb is used, so that help and completion answer
at once. What goes where on the terminal: ``output.py``. Options, variables and the
configuration file: ``context.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 fine, 1 refused, 2 usage, 3 server or network trouble."""
    from tabellion.cli.app import run  # noqa: PLC0415  # the package itself must import in no time

    sys.exit(run(args))
