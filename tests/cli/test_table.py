"""Tables in terminals of any width, with texts of any kind."""

from collective.taskqueue.cli.table import aligned
from collective.taskqueue.cli.table import Column
from collective.taskqueue.cli.tasks import COLUMNS
from uuid import uuid4
from wcwidth import wcswidth
import pytest
import re


def lines(columns, rows, width):
    return ["  ".join(cell for _, cell in line) for line in aligned(columns, rows, width)]


def row(url="/Plone/@@work", reason="", user=""):
    return [str(uuid4()), "succeeded", "12 days", url, reason, user, "default", "2026-11-30"]


TEXTS = ["", "/a", "/" + "x" * 5000, "größe" * 30, "日本語" * 40, "e\u0301" * 90, "👩‍💻" * 40]


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("number", [0, 1, 10_000])
def test_never_wider_than_the_terminal(width, number):
    rows = [row(TEXTS[each % 7], TEXTS[each % 5], TEXTS[each % 3]) for each in range(number)]
    shown = lines(COLUMNS, rows, width)
    assert len(shown) == number + 1
    assert max(map(wcswidth, shown)) <= width
    # The id is what other commands take: never cut.
    assert all(line.startswith(cells[0]) for line, cells in zip(shown[1:], rows, strict=True))


def test_columns_are_aligned():
    """Each line is as wide as all others, whatever signs are in it."""
    shown = lines(COLUMNS, [row(text, text) for text in TEXTS], 120)
    assert {wcswidth(line) for line in shown} == {120}


def test_what_is_left_out():
    """First the optional columns from the right, then texts are cut; nothing in a pipe."""
    rows = [row("/" + "x" * 50, "why", "jane")]
    assert "QUEUE" in lines(COLUMNS, rows, 120)[0]
    assert "QUEUE" not in lines(COLUMNS, rows, 90)[0]
    assert "…" in lines(COLUMNS, rows, 80)[1]
    assert "…" not in lines(COLUMNS, rows, None)[1]
    assert "2026-11-30" in lines(COLUMNS, rows, None)[1]


def test_an_optional_column_without_content_is_left_out():
    columns = [Column(title="A"), Column(title="B", optional=True)]
    assert lines(columns, [["1", ""], ["2", ""]], None) == ["A", "1", "2"]
    assert lines(columns, [["1", ""], ["2", "x"]], None)[0] == "A  B"


def test_numbers_stand_on_the_right():
    assert lines([Column(title="N", right=True)], [["1"], ["100"]], None) == ["  N", "  1", "100"]


@pytest.mark.parametrize("kind", ["redis-server"])
@pytest.mark.parametrize("width", [80, 120])
def test_in_a_terminal(setup, width):
    """The real thing, as a person sees it."""
    [failed] = setup.fail(url="/Plone/größe/日本/" + "x" * 300)
    setup.add(2, description="x")
    for words in (("stats",), ("tasks",), ("consumers",)):
        shown = re.sub(r"\x1b\[\d*m", "", setup.terminal(width, *words)).splitlines()
        assert max(map(wcswidth, shown)) <= width
    assert failed in setup.terminal(width, "tasks", "--state", "failed")
    assert "\x1b[31mfailed" in setup.terminal(width, "tasks")
    setup.environ["NO_COLOR"] = "1"
    assert "\x1b[" not in setup.terminal(width, "tasks")
