"""Text for a terminal: other people's names cannot steer it, and no letter is too many for its encoding."""

from __future__ import annotations

import io
import sys
import unicodedata

STEERING = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of control characters, half a character, and line separators."""
DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""What reverses the order in which text is shown."""


def printable(text: str) -> str:
    r"""The text with characters that steer a terminal written as escapes; line feeds and tabs stay.

    >>> print(printable("a name: \x1b[31mred"))
    a name: \x1b[31mred
    """
    if text.isprintable():
        return text
    return "".join(letter if _is_harmless(letter) else _escape(letter) for letter in text)


def accept_every_letter() -> None:
    """Writes what the terminal's encoding lacks (LC_ALL=C, Latin-1) as escapes, where Python would raise
    UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_harmless(letter: str) -> bool:
    return letter in "\n\t" or (unicodedata.category(letter) not in STEERING and letter not in DIRECTIONS)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode()
