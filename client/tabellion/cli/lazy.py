"""A command group that knows its verbs by name and imports one only when it's asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import NamedTuple

import click

_MAX_DISTANCE = 2


class Verb(NamedTuple):
    """Where a verb lives, and its line in the overview."""

    module: str
    summary: str


class LazyGroup(click.Group):
    """Group whose commands are attributes named ``command`` of modules.

    The overview is printed from the summaries, without importing any verb.
    """

    verbs: Mapping[str, Mapping[str, Verb]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """List verbs in the order of the overview."""
        return [name for section in self.verbs.values() for name in section]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """Import a verb."""
        for section in self.verbs.values():
            if cmd_name in section:
                command = importlib.import_module(section[cmd_name].module).command
                if not isinstance(command, click.Command):
                    raise TypeError(f"{section[cmd_name].module}.command isn't a command")
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; suggest the nearest one if it isn't known."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is not None:
            return name, command, args[1:]
        if ctx.resilient_parsing:
            return None, None, args
        import difflib  # noqa: PLC0415  # only on a typing error

        near = difflib.get_close_matches(name, self.list_commands(ctx), n=_MAX_DISTANCE)
        hint = f"did you mean: {' or '.join(near)}?" if near else "see: tabellion --help"
        error = click.UsageError(f"there is no command {name!r}", ctx=ctx)
        error.hint = hint  # type: ignore[attr-defined]  # read by app.run
        raise error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview, section by section."""
        width = max(len(name) for name in self.list_commands(ctx))
        for title, section in self.verbs.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), verb.summary) for name, verb in section.items()]
                )

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Complete verbs with their summaries."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415  # only in completion

        names = [
            CompletionItem(name, help=verb.summary)
            for section in self.verbs.values()
            for name, verb in section.items()
            if name.startswith(incomplete)
        ]
        return names or click.Command.shell_complete(self, ctx, incomplete)
