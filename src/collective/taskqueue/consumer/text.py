"""What people write, made fit for a line in a log, a list and every storage."""

from __future__ import annotations

import re
import unicodedata


#: Control characters, halves of a pair that is none, and what turns the direction of the text
#: around it. Joiners, soft hyphens and signs that Python does not know yet stay.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")

_JOINERS = "\N{ZERO WIDTH JOINER}"
_SKIN_TONES = "\U0001f3fb-\U0001f3ff"
_TAGS = "\U000e0020-\U000e007f"
#: What belongs to the character in front of it, besides combining marks.
_APPENDED = re.compile(f"[{_JOINERS}\N{ZERO WIDTH NON-JOINER}{_SKIN_TONES}{_TAGS}]")

#: Characters that one sign on the screen is made of at most, where a text is cut.
_LONGEST_SIGN = 32


def one_line(text: str, longest: int) -> str:
    """Return the text as one line of at most `longest` characters; it is never refused.

    White space of any kind and length becomes one blank, what no terminal and no database
    should get a replacement character. What people see as one sign, such as an emoji of
    several characters, is kept or cut as a whole.
    """
    # Cut before, too: it may be megabytes.
    rough = text.lstrip()[: 4 * longest]
    line = _UNFIT.sub("\N{REPLACEMENT CHARACTER}", " ".join(rough.split()))
    return line if len(line) <= longest else line[: _cut(line, longest)].rstrip()


def _cut(line: str, longest: int) -> int:
    """Return where to cut: in front of the sign that does not fit as a whole."""
    for end in range(longest, max(0, longest - _LONGEST_SIGN), -1):
        if not _is_appended(line[end]) and line[end - 1] not in _JOINERS:
            return end
    return longest


def _is_appended(character: str) -> bool:
    return bool(_APPENDED.match(character)) or unicodedata.category(character).startswith("M")
