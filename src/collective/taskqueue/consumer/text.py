"""Text that people write, made fit for a line in a log, a list and every storage."""

from __future__ import annotations

import re
import unicodedata


#: Control characters, lone surrogates, and characters that change the direction of the text
#: around them. Joiners, soft hyphens and characters unknown to this Python are kept.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")

_JOINERS = "\N{ZERO WIDTH JOINER}"
_SKIN_TONES = "\U0001f3fb-\U0001f3ff"
_TAGS = "\U000e0020-\U000e007f"
#: Characters that belong to the one before them, besides combining marks.
_APPENDED = re.compile(f"[{_JOINERS}\N{ZERO WIDTH NON-JOINER}{_SKIN_TONES}{_TAGS}]")

#: Most characters of one grapheme that are kept together where a text is cut.
_LONGEST_SIGN = 32


def one_line(text: str, longest: int) -> str:
    """Return the text as one line of at most `longest` characters; it is never refused.

    White space of any kind and length becomes one blank; characters unfit for a terminal or a
    database become a replacement character. A grapheme, such as an emoji of several characters,
    is kept or cut as a whole.
    """
    # Cut before, too: the text may be megabytes.
    rough = text.lstrip()[: 4 * longest]
    line = _UNFIT.sub("\N{REPLACEMENT CHARACTER}", " ".join(rough.split()))
    return line if len(line) <= longest else line[: _cut(line, longest)].rstrip()


def _cut(line: str, longest: int) -> int:
    """Return where to cut: before the grapheme that does not fit as a whole."""
    for end in range(longest, max(0, longest - _LONGEST_SIGN), -1):
        if not _is_appended(line[end]) and line[end - 1] not in _JOINERS:
            return end
    return longest


def _is_appended(character: str) -> bool:
    return bool(_APPENDED.match(character)) or unicodedata.category(character).startswith("M")
