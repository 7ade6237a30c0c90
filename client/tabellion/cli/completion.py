"""``tabellion completion``: print the completion script of a shell."""

from __future__ import annotations

import click

from tabellion.cli import output


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL: bash, zsh or fish.

    For bash, put the last line below into ~/.bashrc.

    \b
    Examples:
      tabellion completion zsh > "${fpath[1]}/_tabellion"
      tabellion completion fish > ~/.config/fish/completions/tabellion.fish
      eval "$(tabellion completion bash)"
    """  # noqa: D301  # \b is click's mark
    from click.shell_completion import get_completion_class  # noqa: PLC0415  # only here

    kind = get_completion_class(shell)
    if kind is None:
        raise TypeError(f"click knows no {shell}")
    root = context.find_root().command
    source = kind(root, {}, "tabellion", "_TABELLION_COMPLETE")
    output.answer(_template(source).rstrip("\n"))


def _template(source: object) -> str:
    """Fill the script's template; click's own ``source()`` would start a shell to ask its age."""
    variables = source.source_vars()  # type: ignore[attr-defined]  # a ShellComplete
    template: str = source.source_template  # type: ignore[attr-defined]  # a ShellComplete
    return str(template % variables)
