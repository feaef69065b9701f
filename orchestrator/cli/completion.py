"""completion: what to load in a shell."""

from __future__ import annotations

import click

from orchestrator.base.errors import Exit

PROGRAM = "reidsearch"
VARIABLE = "_REIDSEARCH_COMPLETE"
# A setting goes on after its `=`: bash would put a space there.
ADDS = "            COMPREPLY+=($value)\n"
ADDS_WITHOUT_SPACE = ADDS + "            [[ $value == *[=/] ]] && compopt -o nospace\n"


@click.command(epilog="Example: reidsearch completion fish > ~/.config/fish/completions/reidsearch.fish")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print the script that lets a shell complete commands, searches, trials and settings.

    \b
    bash  eval "$(reidsearch completion bash)"      in ~/.bashrc
    zsh   eval "$(reidsearch completion zsh)"       in ~/.zshrc
    fish  reidsearch completion fish > ~/.config/fish/completions/reidsearch.fish
    """
    click.echo(script(context.find_root().command, shell))
    return Exit.OK


def script(command: click.Command, shell: str) -> str:
    """The shell's script: it asks the program itself, through click."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    complete = kind(command, {}, PROGRAM, VARIABLE)
    text = complete.source_template % complete.source_vars()
    return text.replace(ADDS, ADDS_WITHOUT_SPACE) if shell == "bash" else text
