"""The parameters of a task arrive as what they were, or are refused by name."""

from collections import UserDict
from collective.taskqueue.enqueue.params import query_string
from collective.taskqueue.errors import InvalidTask
from datetime import date
from datetime import datetime
from datetime import time
from datetime import timedelta
from datetime import UTC
from decimal import Decimal
from enum import IntEnum
from types import MappingProxyType
from urllib.parse import parse_qsl
import pytest


class Loud(str):
    """As members of an Enum are, and messages of i18n."""

    __slots__ = ()

    def __str__(self):
        return "LOUD"


class Size(IntEnum):
    LARGE = 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ä b&c", ["ä b&c"]),
        ("", [""]),
        (0, ["0"]),
        (-3, ["-3"]),
        (2.5, ["2.5"]),
        (1e300, ["1e+300"]),
        (True, ["1"]),
        (False, [""]),
        (date(2026, 2, 28), ["2026-02-28"]),
        (datetime(2026, 2, 28, 1, 2, 3), ["2026-02-28T01:02:03"]),
        (datetime(2026, 2, 28, 1, 2, tzinfo=UTC), ["2026-02-28T01:02:00+00:00"]),
        (Loud("red"), ["red"]),
        (Size.LARGE, ["3"]),
        ([], []),
        (["a", 1, True, date(2026, 1, 1)], ["a", "1", "1", "2026-01-01"]),
        (("a", "b"), ["a", "b"]),
    ],
)
def test_a_value_arrives(value, expected):
    query = query_string({"x": value})
    assert parse_qsl(query, keep_blank_values=True) == [("x", text) for text in expected]


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"x": 1},
        MappingProxyType({}),
        {1, 2},
        frozenset(),
        (item for item in "ab"),
        range(3),
        {"a": 1}.keys(),
        b"bytes",
        bytearray(b"bytes"),
        Decimal("1.5"),
        1j,
        time(1, 2),
        timedelta(1),
        object(),
        str,
        ["a", None],
        [["a"]],
        ["a", {"x": 1}],
        10**5000,
        "\udc80",
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_is_refused(value):
    """By the name of its parameter, wherever it stands."""
    with pytest.raises(InvalidTask, match="'second'") as caught:
        query_string({"first": "fine", "second": value})
    assert caught.value.field == "params"


@pytest.mark.parametrize(
    "params", [3, "a=1", b"a=1", ["a"], ["ab"], [("a", 1, 2)], [("a",)], {"ab"}, True]
)
def test_what_is_no_mapping_and_no_pairs(params):
    with pytest.raises(InvalidTask, match="params"):
        query_string(params)


@pytest.mark.parametrize("name", [1, None, b"x", ("a",)])
def test_names_are_texts(name):
    with pytest.raises(InvalidTask, match="name of a parameter"):
        query_string({name: "value"})


@pytest.mark.parametrize("params", [None, {}, [], ()])
def test_no_parameters(params):
    assert query_string(params) == ""


def test_names_keep_their_types():
    """They are for Zope to read."""
    assert query_string({"x:int": 1, "l:list": ["a", "b"]}) == "x%3Aint=1&l%3Alist=a&l%3Alist=b"
    assert query_string([("a", 1), ("b", 2), ("a", 3)]) == "a=1&b=2&a=3"
    assert query_string(UserDict(a=1)) == "a=1"
    assert query_string(iter([("a", 1)])) == "a=1"
