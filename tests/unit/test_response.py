"""What is kept of a response."""

from collective.taskqueue.consumer.response import kept
from collective.taskqueue.consumer.response import MAX_BODY
import pytest


@pytest.mark.parametrize("character", ["ä", "€", "😀"])
@pytest.mark.parametrize("begun", [1, 2, 3])
def test_text_is_cut_before_a_character(character, begun):
    """What is left is text; nothing but the last, unfinished character is missing."""
    encoded = character.encode()
    inside = min(begun, len(encoded) - 1)
    body = b"x" * (MAX_BODY - inside) + encoded + b"more"
    assert kept(body) == b"x" * (MAX_BODY - inside)


@pytest.mark.parametrize("character", ["x", "ä", "€", "😀"])
def test_text_that_ends_with_a_character_is_cut_there(character):
    encoded = character.encode()
    body = b"x" * (MAX_BODY - len(encoded)) + encoded
    assert kept(body) == body
    assert kept(body + b"more") == body
    assert kept(body + "€".encode()) == body


@pytest.mark.parametrize("last", [b"\xe4", b"\xff", b"\xe2\x82", b"\xf0\x9f", b"\x80"])
def test_other_bytes_are_cut_as_they_are(last):
    """They are no UTF-8, as what follows shows, or what comes before."""
    body = b"x" * (MAX_BODY - len(last)) + last
    assert kept(body + b"more") == body
    binary = b"\xff\xfe" + b"x" * (MAX_BODY - 2 - len(last)) + last
    assert kept(binary + b"\x80") == binary


def test_what_is_not_cut_stays_as_it_is():
    for body in (b"", b"\xe4", "ä".encode()[:1], b"x" * (MAX_BODY - 1) + b"\xe2"):
        assert kept(body) == body
