"""The access log is one parseable line for each attempt, without secrets."""

from attempts import make_attempt
from collective.taskqueue.publisher.accesslog import log_attempt
from collective.taskqueue.publisher.accesslog import shown_url
from collective.taskqueue.publisher.accesslog import without_queries
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Outcome
import logging
import pytest
import re


LINE = re.compile(
    r'task (?P<id>\S+): "(?P<method>[A-Z]+) (?P<url>\S+)" (?P<status>\d{3}|None)'
    r" (?P<seconds>\d+\.\d{3}) s, attempt (?P<attempt>\d+), user (?P<user>\S+)"
)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/Plone/view", "/Plone/view"),
        ("/Plone/view?token=s3cret&a=1", "/Plone/view?token&a"),
        ("/Plone/view?token=s3cret=s3cret&a", "/Plone/view?token&a"),
        ("/Plone/view?a&b", "/Plone/view?a&b"),
        ("/Plone/view?token:utf8:ustring=s3cret", "/Plone/view?token:utf8:ustring"),
        ("/Plone/view?token%3Ds3cret", "/Plone/view?token"),
        ("/Plone/view?a=1;token=s3cret", "/Plone/view?a"),
        ("/Plone/view?a=1?token=s3cret", "/Plone/view?a"),
        ("/Plone/view?", "/Plone/view"),
        ("/Plone/view?=s3cret", "/Plone/view"),
        ("/Plone/view#s3cret", "/Plone/view"),
        ("/Plone/view?a=1#s3cret", "/Plone/view?a"),
        ("https://example.org/hook?key=s3cret", "https://example.org/hook?key"),
        ("https://jane:s3cret@example.org/hook", "https://example.org/hook"),
        ("https://jane:s3@cret@example.org/hook", "https://example.org/hook"),
        ("//jane:s3cret@example.org/hook", "//example.org/hook"),
        ("/Plone/ä/@@view", "/Plone/ä/@@view"),
    ],
)
def test_urls_are_shown_without_values(url, shown):
    """What is in the query by name only."""
    assert shown_url(url) == shown
    assert "s3cret" not in shown_url(url)


@pytest.mark.parametrize(
    "mark",
    [
        "\r\n",
        "\n",
        "\x00",
        "\x1b[2J",
        "\x7f",
        "\x85",
        "\u2028",
        "\u2029",
        "\xa0",
        "\u202e",
        '"',
        " ",
    ],
)
@pytest.mark.parametrize("place", ["/Plone/{}view", "/Plone/view?{}=1", "https://example.org/{}"])
def test_the_line_stays_one(caplog, mark, place):
    """No name breaks it, and none forges another."""
    caplog.set_level(logging.INFO, "collective.taskqueue.access")
    attempt = make_attempt(url=place.format(mark), user=Identity("/acl_users", f"jane{mark}x"))
    log_attempt(attempt, Outcome(200), 0.25)
    (message,) = [record.getMessage() for record in caplog.records]
    found = LINE.fullmatch(message)
    assert found, message
    assert found["id"] == attempt.task.id
    assert message.isprintable()
    assert len(message.splitlines()) == 1


def test_half_a_character_is_no_error():
    assert shown_url("/Plone/\ud800") == "/Plone/%ED%A0%80"


@pytest.mark.parametrize("value", ["s3cret", "it's-s3cret", "a?s3cret", "%22s3cret", '"s3cret'])
def test_texts_without_queries(value):
    """A url that a library quotes in an error loses its query, in any quotation marks."""
    url = f"/hook?key={value}"
    text = f"URL can't contain control characters. {url!r} (found at least ' ')"
    assert "s3cret" not in without_queries(text)
    assert "/hook" in without_queries(text)


def test_a_question_is_no_query():
    assert without_queries("what? nothing") == "what? nothing"
