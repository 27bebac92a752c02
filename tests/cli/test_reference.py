"""The page of reference says what the commands themselves say, and the list says it, too."""

from collective.taskqueue.cli.main import COMMANDS
from collective.taskqueue.cli.main import taskqueue
from pathlib import Path
from textwrap import wrap
import click
import inspect
import pytest
import re


ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "command-line.rst"
EXITS = ROOT / "src" / "collective" / "taskqueue" / "cli" / "exits.py"


def table(*rows):
    """Return a table of reStructuredText; the first row is its header."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        for number, cell in enumerate(row):
            lead = "   * - " if number == 0 else "     - "
            lines += wrap(cell, 100, initial_indent=lead, subsequent_indent="       ")
    return "\n".join(lines)


def options(command):
    """Return the table of the options of a command."""
    context = click.Context(command, info_name="taskqueue")
    rows = []
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            rows.append((f"``{record[0]}``", record[1]))
    return table(("Option", "Meaning"), *rows) if rows else "It has no options."


def section(name):
    """Return what the page says of a command."""
    command = taskqueue.get_command(None, name)
    context = click.Context(command, info_name=f"taskqueue {name}")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    paragraphs = [" ".join(each.split()) for each in inspect.cleandoc(command.help).split("\n\n")]
    title = f"taskqueue {name}"
    text = "\n\n".join("\n".join(wrap(each, 110)) for each in paragraphs)
    text = re.sub(r"`(eval .*?)`", r"``\1``", text)
    return f"{title}\n{'-' * len(title)}\n\n``{usage}``\n\n{text}\n\n{options(command)}\n"


def exits():
    """Return the table of exit codes, by the comments in exits.py."""
    found = re.findall(r"((?:^#: .*\n)+)^[A-Z]+ = (\d+)$", EXITS.read_text(), re.MULTILINE)
    rows = [(f"``{code}``", " ".join(text.replace("#:", "").split())) for text, code in found]
    return table(("Exit code", "When"), ("``0``", "All went well."), *rows)


def whole():
    """Return all that the page has to say; to write it anew, print this."""
    return "\n\n".join([exits(), *map(section, COMMANDS)])


@pytest.mark.parametrize("name", COMMANDS)
def test_command(name):
    assert f"\n{section(name)}" in PAGE.read_text(encoding="utf-8"), section(name)


def test_global_options():
    assert options(taskqueue) in PAGE.read_text(encoding="utf-8"), options(taskqueue)


def test_exit_codes():
    assert exits() in PAGE.read_text(encoding="utf-8"), exits()


@pytest.mark.parametrize("name", COMMANDS)
def test_list(name):
    """The list of commands, which imports none of them, begins as their own help does."""
    _, text = COMMANDS[name]
    command = taskqueue.get_command(None, name)
    assert command.name == name
    own = " ".join(command.help.split())
    assert own.startswith(text.removesuffix("."))
