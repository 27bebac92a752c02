"""What those are told of a reason who may see a task, but not what is inside."""

from collective.taskqueue.services.reasons import kind_of
from collective.taskqueue.services.reasons import PHRASES
import pytest


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("", ""),
        ("status 502", "status 502"),
        ("status 410, the web hook is gone for good", "status 410"),
        ("status 503 (attempt 3 of 3)", "status 503"),
        ("status 503 (given up after 5 s)", "status 503"),
        ("status 302, redirected to /reset?token=s3cret, not followed", "status 302, redirected"),
        ("status 302, redirected to /a (NotFound: s3cret)", "status 302, redirected"),
        ("status 302, no redirect that can be followed", "status 302"),
        ("Redirect raised, redirected to /a?token=s3cret", "Redirect raised, redirected"),
        ("ValueError: token s3cret", "ValueError"),
        ("ValueError: a: s3cret", "ValueError"),
        ("zlib_error: s3cret", "zlib_error"),
        ("ValueError", "ValueError"),
        ("TaskTimeout: the task took more than 5 s", "TaskTimeout"),
        ("Unauthorized: s3cret", "Unauthorized"),
        ("no response", "no response"),
        ("its process was lost 3 times", "its process was lost"),
        ("cancelled while running", "cancelled while running"),
        ("replaced by s3cret", "replaced"),
        ("older than its max_age of 5 s", "older than its max_age"),
        ("cannot be decoded: s3cret", "cannot be decoded"),
        ("its record is damaged, unreadable: s3cret", "its record is damaged"),
        ("s3cret", "(hidden)"),
        ("s3cret: is what it said", "s3cret"),
        ("somebody said s3cret", "(hidden)"),
        ("status s3cret", "(hidden)"),
        ("status 5021", "(hidden)"),
        ("statuses 502", "(hidden)"),
        ("cancelledby s3cret", "(hidden)"),
        ("\ns3cret", "(hidden)"),
        (" ValueError: s3cret", "(hidden)"),
        ("Value Error: s3cret", "(hidden)"),
        ("Välue: s3cret", "(hidden)"),
        (f"{'E' * 101}: s3cret", "(hidden)"),
    ],
)
def test_kinds(reason, kind):
    """The first part, if it is one that says no more than what has happened."""
    assert kind_of(reason) == kind


@pytest.mark.parametrize("reason", ["s3cret", "s3cret: gone", "jane: s3cret", "ValueError: s3cret"])
def test_what_was_cancelled(reason):
    """For a reason that a person has given in their own words."""
    assert kind_of(reason, "cancelled") == "cancelled"
    assert kind_of(f"cancelled: {reason}", "cancelled") == "cancelled"
    assert kind_of(f"replaced by {reason}", "cancelled") == "replaced"


@pytest.mark.parametrize("phrase", PHRASES)
def test_reasons_of_the_queue_itself(phrase):
    """Without what follows."""
    assert kind_of(f"{phrase} s3cret") == phrase
