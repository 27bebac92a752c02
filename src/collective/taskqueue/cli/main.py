"""The command `taskqueue`: its options, and the list of its commands."""

from __future__ import annotations

from collective.taskqueue.cli import words
from collective.taskqueue.cli.exits import INTERRUPTED
from collective.taskqueue.cli.exits import UNEXPECTED
from collective.taskqueue.cli.queues import Queues
from collective.taskqueue.errors import described
from collective.taskqueue.storages.secrets import masked
from io import TextIOWrapper
import click
import importlib
import logging
import os
import sys


logger = logging.getLogger("collective.taskqueue")

#: Module, and what its command does, as its own help begins. The first ones look and do not touch.
COMMANDS = {
    "stats": ("stats", "Show how many tasks each queue has, and how it is doing."),
    "tasks": ("tasks", "List tasks."),
    "show": ("show", "Show all that is known of a task, but no secrets."),
    "consumers": ("consumers", "List the consumers of the last hour."),
    "schedules": ("schedules", "List schedules: what is queued at times."),
    "check": ("check", "Check the configuration and every storage, and change nothing."),
    "schema": ("schema", "Show the version of the tables of SQL queues."),
    "worker": ("worker", "Run tasks, in a process that answers no browser."),
    "add": ("add", "Queue a task, and print its id."),
    "retry": ("change", "Queue failed and cancelled tasks again; their history stays."),
    "cancel": ("change", "Cancel waiting tasks, and ask running ones to stop."),
    "remove": ("change", "Delete the records of finished tasks."),
    "pause": ("steer", "Start no task of a queue until it is resumed."),
    "resume": ("steer", "Start the tasks of a paused queue again."),
    "purge": ("steer", "Delete the records of all tasks of a queue."),
    "reset": ("steer", "Delete all waiting and scheduled tasks of a queue."),
    "migrate": ("schema", "Make the tables of SQL queues."),
    "completion": ("completion", "Print the script that lets a shell complete commands."),
}

#: How a line of the log is written.
LOG_FORMAT = "%(asctime)s %(levelname)s [%(name)s] %(message)s"


class Commands(click.Group):
    """Imports a command when it is called: one that only reads Redis never loads SQL or Zope."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return a command; None if there is none of that name."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"collective.taskqueue.cli.{COMMANDS[name][0]}")
        found: click.Command = getattr(module, name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    metavar="PATH",
    help="zope.conf. Without it: the file that the environment variable TASKQUEUE_CONFIG names,"
    " or etc/zope.conf, instance/etc/zope.conf or parts/instance/etc/zope.conf in this folder.",
)
@click.option(
    "--log",
    metavar="PATH",
    help="Append the log to this file, - is standard error: one line for each task that a"
    " command drops or changes.",
)
@click.pass_context
def taskqueue(ctx: click.Context, config: str | None, log: str | None) -> None:
    """Look at task queues and steer them.

    Zope is not started and the database is not opened, so it works beside running instances.
    """
    _log_to(log)
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    ctx.obj = Queues(config)
    ctx.call_on_close(ctx.obj.close)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, and end the process with one of the codes in `exits`."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal that cannot show a sign shows a question mark.
        sys.stdout.reconfigure(errors="replace")
    try:
        # The number that `ctx.exit` was called with, or what the command returns: nothing.
        sys.exit(taskqueue.main(arguments, prog_name="taskqueue", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.UsageError as exc:
        path = exc.ctx.command_path if exc.ctx else "taskqueue"
        click.echo(f"taskqueue: {exc.format_message()}; see {path} --help", err=True)
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("taskqueue: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        _close_output()
    except Exception as exc:
        logger.exception("the command failed")
        text = words.line(masked(described(exc)))
        click.echo(f"taskqueue: {text}; --log has the traceback", err=True)
        sys.exit(UNEXPECTED)


def _log_to(path: str | None) -> None:
    if path is None:
        # Without any handler, Python would print warnings. Other handlers, such as those that a
        # worker reads from its zope.ini, get all lines as well.
        logger.addHandler(logging.NullHandler())
        return
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path != "-":
        try:
            handler = logging.FileHandler(path, encoding="utf-8")
        except OSError as exc:
            raise click.UsageError(f"the log {path} cannot be opened: {exc.strerror}") from None
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _close_output() -> None:
    # The reader of the pipe, such as `head`, has seen enough. Python would complain at exit that
    # it cannot write the rest.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
