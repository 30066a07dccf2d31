"""Text for a terminal: other people's names cannot steer it, and no letter is too many for its encoding."""

from __future__ import annotations

import io
import sys
import unicodedata

STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of control, format (with the reversal of text), half a character, and line separators."""


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
    return letter in "\n\t" or unicodedata.category(letter) not in STEERING


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode()
