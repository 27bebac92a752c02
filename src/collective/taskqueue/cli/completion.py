"""``taskqueue completion``: lets a shell complete commands and options."""

from __future__ import annotations

from click.shell_completion import get_completion_class
import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that lets a shell complete commands and options.

    For bash, put `eval "$(taskqueue completion bash)"` into ~/.bashrc, for zsh the same with zsh
    into ~/.zshrc. For fish, write the output to ~/.config/fish/completions/taskqueue.fish.
    """
    kind = get_completion_class(shell)
    if kind is not None:
        root = ctx.find_root()
        click.echo(kind(root.command, {}, "taskqueue", "_TASKQUEUE_COMPLETE").source())
