"""The exit codes of the commands, and the error that ends a command with one of them."""

from __future__ import annotations

import click


#: Something was found by check or schema, some of the named tasks could not be changed, or a person
#: has answered a question with no.
FOUND = 1
#: The command was called in a wrong way; click's own code.
USAGE = 2
#: The configuration cannot be used.
CONFIGURATION = 3
#: A storage is unavailable.
UNAVAILABLE = 4
#: The queue is in the memory of another process.
LOCAL = 5
#: There is no such queue, or no such task.
UNKNOWN = 6
#: An unexpected error: a mistake of this package. The number is that of sysexits.h.
UNEXPECTED = 70
#: A person has pressed Ctrl-C: 128 and the number of the signal, as shells say it.
INTERRUPTED = 130


class Stop(click.ClickException):
    """Ends the command: `message`, one sentence, goes to standard error, `code` to the shell."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]

    def show(self, file: object = None) -> None:
        """Print the sentence."""
        click.echo(f"taskqueue: {self.message}", err=True)
