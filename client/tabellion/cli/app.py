"""The group ``tabellion``, and how every error becomes two lines and an exit status."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from tabellion.cli import output
from tabellion.cli.context import Options, common_options, trust_options
from tabellion.cli.lazy import LazyGroup, Verb
from tabellion.errors import TabellionError

_INTERRUPTED = 130
_INTERNAL = 3
_READER_GONE = 141  # as a shell tells of SIGPIPE


class ReaderGoneError(Exception):
    """Whoever read the answer has seen enough, as ``head`` does."""


@contextlib.contextmanager
def _noticing_the_reader() -> Iterator[None]:
    """Keep a closed pipe from click, which would end with 1 and tell nobody why."""
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGoneError from error


class Tabellion(LazyGroup):
    """All verbs."""

    verbs = {  # noqa: RUF012  # constant
        "Start here": {
            "demo": Verb("tabellion.cli.demo", "The whole story in a minute, on this machine."),
        },
        "Publish": {
            "init": Verb("tabellion.cli.init", "Found a GUN: make its root and its keys."),
            "sign": Verb("tabellion.cli.sign", "Sign an image or data, and publish it."),
            "revoke": Verb("tabellion.cli.revoke", "Take a signature back."),
            "publish": Verb("tabellion.cli.publish", "Publish what was staged."),
            "cosign": Verb("tabellion.cli.cosign", "Sign what waits for more signatures."),
            "pending": Verb("tabellion.cli.pending", "See and withdraw what waits at the server."),
            "status": Verb("tabellion.cli.status", "Show staged changes and expiry."),
            "reset": Verb("tabellion.cli.reset", "Drop staged changes."),
            "rebin": Verb("tabellion.cli.rebin", "Spread very many targets over hash bins."),
        },
        "Pull": {
            "verify": Verb("tabellion.cli.verify", "Print the verified digest of an image."),
            "pull": Verb("tabellion.cli.pull", "Verify, then pull by digest."),
            "docker": Verb("tabellion.cli.docker", "Run docker on verified images only."),
        },
        "Look": {
            "list": Verb("tabellion.cli.list", "List what is signed in a GUN."),
            "inspect": Verb("tabellion.cli.inspect", "Show who signed what, until when."),
            "history": Verb("tabellion.cli.history", "Show what a tag meant when."),
        },
        "Trust": {
            "trust": Verb("tabellion.cli.trust", "Pin roots: add, list, show, replace, remove."),
            "anchors": Verb("tabellion.cli.anchors", "Say which root keys a GUN may have."),
        },
        "Keys": {
            "signer": Verb("tabellion.cli.signer", "Delegate: request, add, remove, list signers."),
            "rotate": Verb("tabellion.cli.rotate", "Give a top-level role another key."),
            "recover": Verb("tabellion.cli.recover", "After theft or loss: keys, lost files."),
            "convert": Verb("tabellion.cli.convert", "Make a Notary GUN a TUF 1.0 GUN."),
            "root": Verb("tabellion.cli.root", "Ceremonies: several holders change the root."),
            "witness": Verb("tabellion.cli.witness", "Sign roles anew as they are."),
            "key": Verb("tabellion.cli.key", "Make, list, import, export signing keys."),
        },
        "Shell": {
            "completion": Verb("tabellion.cli.completion", "Print the shell completion script."),
        },
    }

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401  # click's signature
    ) -> click.Context:
        """Read the command line; ``--help`` is answered here."""
        with _noticing_the_reader():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  # click's signature
        """Run the verb."""
        with _noticing_the_reader():
            return super().invoke(ctx)


def _print_version(context: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001
    if not value or context.resilient_parsing:
        return
    from importlib.metadata import version  # noqa: PLC0415  # slow to import

    output.answer(f"tabellion {version('tabellion')}")
    context.exit()


@click.group(
    cls=Tabellion,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="COMMAND [ARGS]...",
)
@common_options
@trust_options
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
def cli() -> None:
    """Sign container images and other data, and verify them before use.

    \b
    Examples:
      tabellion demo
      tabellion init registry.example/team/app
      tabellion sign registry.example/team/app:1.2
      tabellion verify registry.example/team/app:1.2

    The answer goes to stdout, the talk to stderr. Exit status: 0 fine, 1 verification
    refused, 2 usage or configuration, 3 server or network trouble.
    """  # noqa: D301  # \b is click's mark for "don't rewrap"


def run(args: Sequence[str] | None = None) -> int:
    """Run a command line and give its exit status; print errors, let none through."""
    for name in ("stdout", "stderr"):  # closed by who started this: Python has None then
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # until the end
    try:
        return _run(args)
    except (ReaderGoneError, BrokenPipeError):
        _give_up_stdout()
        return _READER_GONE


def _run(args: Sequence[str] | None) -> int:  # noqa: PLR0911  # one per kind of end
    options = Options()
    try:
        result = cli.main(
            args=None if args is None else list(args),
            prog_name="tabellion",
            standalone_mode=False,
            obj=options,
        )
        sys.stdout.flush()
    except (ReaderGoneError, BrokenPipeError):
        raise
    except TabellionError as error:
        return _report(options, error.code, error.message, error.hint, error.exit_status)
    except click.UsageError as error:
        return _report_usage(options, error)
    except click.ClickException as error:
        return _report(options, "usage", error.format_message(), "", 2)
    except (click.Abort, KeyboardInterrupt):
        output.say("interrupted")
        return _INTERRUPTED
    except OSError as error:
        _give_up_stdout()
        where = f" {error.filename!r}" if error.filename else ""
        message = f"this machine refuses{where}: {str(error.strerror or error).lower()}"
        return _report(options, "system", message, "check free space and permissions", _INTERNAL)
    except Exception as error:  # noqa: BLE001  # the last line of defence: no stack traces
        message = f"internal error, {type(error).__name__}: {error}"
        hint = "this is a bug in tabellion; set TABELLION_DEBUG=1 to see where, and report it"
        return _report(options, "internal", message, hint, _INTERNAL)
    return result if isinstance(result, int) else 0


def _give_up_stdout() -> None:
    """Let nothing more be written there, not even by the interpreter as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_usage(options: Options, error: click.UsageError) -> int:
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message[:1].lower() + message[1:]
    path = error.ctx.command_path if error.ctx is not None else "tabellion"
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        sys.stderr.write(error.format_message() + "\n")
        return 2
    hint = getattr(error, "hint", "") or f"see: {path} --help"
    return _report(options, "usage", message, hint, 2)


def _report(options: Options, code: str, message: str, hint: str, status: int) -> int:
    sys.stdout.flush()
    if os.environ.get("TABELLION_DEBUG"):
        import traceback  # noqa: PLC0415  # only for who hunts a bug

        traceback.print_exc()
    if options.json:
        content = {"code": code, "message": output.one_line(message), "hint": hint}
        output.answer_json({"error": content})
    output.error(message, hint)
    return status
