"""One line of what people write: nothing is refused, nothing harms, nothing is torn."""

from collective.taskqueue.consumer.text import one_line
from hypothesis import given
from hypothesis import strategies as st
import pytest
import unicodedata


FAMILY = "👩\u200d👩\u200d👧\u200d👦"
SCOTLAND = "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Täglicher Bericht", "Täglicher Bericht"),
        ("  two\n lines\r\n\tand more ", "two lines and more"),
        ("a\u2028b\u2029c\x85d\x1ce\u3000f", "a b c d e f"),
        ("10\N{NO-BREAK SPACE}000", "10 000"),
        (FAMILY, FAMILY),
        ("👍🏽 ✌️", "👍🏽 ✌️"),
        (SCOTLAND, SCOTLAND),
        ("نمی\u200cشود", "نمی\u200cشود"),
        ("soft\N{SOFT HYPHEN}hyphen", "soft\N{SOFT HYPHEN}hyphen"),
        ("a\0b\x1b[31mc\x7f", "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[31mc\ufffd"),
        ("a\ud83d", "a\ufffd"),
        ("a\u202eb", "a\ufffdb"),
        ("", ""),
        (" \n\u2003", ""),
    ],
)
def test_one_line(text, expected):
    assert one_line(text, 255) == expected


@pytest.mark.parametrize("sign", [FAMILY, SCOTLAND, "e\u0301\u0323", "👍🏽", "✌️"])
def test_no_sign_is_torn(sign):
    """Wherever the text ends."""
    for length in range(20, 60):
        kept = one_line("x" * (length % len(sign)) + sign * 60, length)
        assert length - len(sign) < len(kept) <= length
        assert kept.lstrip("x") == sign * (len(kept.lstrip("x")) // len(sign))


def test_marks_without_end():
    """They are torn in the end: a text has to be cut somewhere."""
    assert len(one_line("e" + "\u0301" * 1000, 255)) == 255


def test_a_very_long_text_is_not_read_to_its_end():
    assert one_line("word " * 1_000_000, 12) == "word word wo"
    assert one_line(" " * 1_000_000 + "word", 12) == "word"


@given(st.text(st.characters(codec=None, categories=None)), st.integers(1, 40))
def test_any_text_is_fit_for_a_log_and_for_a_storage(text, longest):
    line = one_line(text, longest)
    assert len(line) <= longest
    assert line.encode("utf-8").decode("utf-8") == line
    assert line == " ".join(line.split())
    assert not {unicodedata.category(character) for character in line} & {"Cc", "Cs", "Zl", "Zp"}
