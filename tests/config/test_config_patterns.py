"""A pattern that fits nothing is answered with what it was meant to be, and why."""

from __future__ import annotations

import re

import pytest

from graft.config.patterns import instead_of_glob, instead_of_prefix, instead_of_regex

NAMES = ["encoder.conv1.weight", "encoder.layer1.0.bn1.bias", "fc.weight"]
ONCE = "(inside quotes each backslash is written once)"
QUOTES = "(outside quotes the shell takes backslashes away)"
GLOB = "(a glob, in which * stands for any letters and all else for itself)"
PREFIX = "(a prefix, which stands for itself)"


def of_regex(pattern: str) -> str:
    return instead_of_regex(pattern, lambda reading: any(re.search(reading, name) for name in NAMES))


def of_prefix(prefix: str) -> str:
    return instead_of_prefix(
        prefix, lambda reading: any(name == reading or name.startswith(f"{reading}.") for name in NAMES)
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (of_regex(r"^encoder\\."), rf"^encoder\. {ONCE}"),
        (of_regex(r"layer(d+)\."), rf"layer(\d+)\. {QUOTES}"),
        (of_regex("^w+[.]conv1"), rf"^\w+[.]conv1 {QUOTES}"),
        (of_regex(r"^decoder\\."), ""),
        (of_regex(r"^encoder\\("), ""),
        (instead_of_glob(r"^encoder\..*", NAMES), f"encoder.* {GLOB}"),
        (instead_of_glob(r"fc\\.weight$", NAMES), f"fc.weight {GLOB}"),
        (instead_of_glob("head.*", NAMES), ""),
        (of_prefix("encoder.layer1.*"), f"encoder.layer1 {PREFIX}"),
        (of_prefix(r"^encoder\.conv1"), f"encoder.conv1 {PREFIX}"),
        (of_prefix("fc."), f"fc {PREFIX}"),
        (of_prefix("*"), ""),
        (of_prefix("fd"), ""),
    ],
)
def test_another_reading_is_offered_where_it_fits(answer: str, expected: str) -> None:
    assert answer == expected
