"""Tables for people: aligned, and as wide as the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
import click
import shutil
import sys


#: Columns between two columns of a table.
GAP = 2


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column. One with a `least` width is cut down to it before the line is too long."""

    title: str
    least: int | None = None
    right: bool = False
    #: Left out if all its cells are empty, or if the terminal is too narrow, the last ones first.
    optional: bool = False
    #: The colour of some of its texts.
    colours: Mapping[str, str] = field(default_factory=dict)


def show(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, cut to the terminal; into a file or a pipe, it is not cut."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for number, cells in enumerate(aligned(columns, rows, width)):
        click.echo("".join(_coloured(cells, columns, number)).rstrip())


def aligned(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None
) -> list[list[tuple[int, str]]]:
    """Return the lines of a table, its titles first: the number of a column, and its cell.

    A line has at most `width` columns of a terminal, unless its columns need more.
    """
    lines = [[column.title for column in columns], *rows]
    widths = {
        number: max(_width(line[number]) for line in lines)
        for number, column in enumerate(columns)
        if not column.optional or any(row[number] for row in rows)
    }
    if width is not None:
        widths = _fitted(columns, widths, width)
    return [
        [(number, _cell(columns[number], line[number], widths[number])) for number in widths]
        for line in lines
    ]


def _fitted(columns: Sequence[Column], widths: dict[int, int], width: int) -> dict[int, int]:
    """Leave columns out, then make others narrower, until a line fits."""
    least = {number: _least(columns[number], widths[number]) for number in widths}
    kept = dict(widths)
    for number in reversed(widths):
        if sum(least[each] + GAP for each in kept) - GAP <= width:
            break
        if columns[number].optional:
            del kept[number]
    surplus = sum(each + GAP for each in kept.values()) - GAP - width
    while surplus > 0:
        widest = max(kept, key=lambda each: kept[each] - least[each])
        if kept[widest] <= least[widest]:
            break
        kept[widest] -= 1
        surplus -= 1
    return kept


def _least(column: Column, width: int) -> int:
    return width if column.least is None else min(width, max(column.least, len(column.title)))


def _cell(column: Column, text: str, width: int) -> str:
    if _width(text) > width:
        text = _cut(text, width)
    blanks = " " * (width - _width(text))
    return f"{blanks}{text}" if column.right else f"{text}{blanks}"


def _cut(text: str, width: int) -> str:
    if text.isascii():
        return f"{text[: width - 1]}…"
    from wcwidth import wcwidth

    kept, rest = "", width - 1
    for sign in text:
        rest -= max(0, wcwidth(sign))
        if rest < 0:
            break
        kept += sign
    return f"{kept}…"


def _width(text: str) -> int:
    # Its tables take a tenth of a second to load, and most texts need none of them.
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth

    # -1 for a control character; `words.line` leaves none of these in a text of others.
    return max(0, wcswidth(text))


def _coloured(cells: list[tuple[int, str]], columns: Sequence[Column], line: int) -> list[str]:
    gap = " " * GAP
    if line == 0:
        return [f"{click.style(cell, bold=True)}{gap}" for _, cell in cells]
    found = []
    for number, cell in cells:
        colour = columns[number].colours.get(cell.strip())
        found.append(f"{click.style(cell, fg=colour) if colour else cell}{gap}")
    return found
