"""Forms of plain values, against which documents of other people's are checked.

A form returns the first fault of a value, or nothing. Keys that a form does not name may hold anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

Form: TypeAlias = Callable[[Any], str]
LETTERS = 100_000
ENTRIES = 1_000_000
MOST = 1e18


def number(low: float = -MOST, high: float = MOST) -> Form:
    def fault(value: Any) -> str:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        return "" if fits else f"a number{_range(low, high)}, received {_shown(value)}"

    return fault


def whole(low: int = 0, high: int = int(MOST)) -> Form:
    def fault(value: Any) -> str:
        fits = type(value) is int and low <= value <= high
        return "" if fits else f"a whole number{_range(low, high)}, received {_shown(value)}"

    return fault


def text(most: int = LETTERS) -> Form:
    def fault(value: Any) -> str:
        fits = isinstance(value, str) and len(value) <= most
        return "" if fits else f"text of at most {most:,} letters, received {_shown(value)}"

    return fault


def flag(value: Any) -> str:
    return "" if isinstance(value, bool) else f"true or false, received {_shown(value)}"


def one_of(*choices: Any) -> Form:
    def fault(value: Any) -> str:
        fits = any(type(value) is type(choice) and value == choice for choice in choices)
        return "" if fits else f"one of {', '.join(map(str, choices))}, received {_shown(value)}"

    return fault


def optional(form: Form) -> Form:
    """The form, or null."""
    return lambda value: "" if value is None else form(value)


def any_of(*forms: Form) -> Form:
    def fault(value: Any) -> str:
        faults = [form(value) for form in forms]
        return "" if "" in faults else faults[0]

    return fault


def each(form: Form, least: int = 0, most: int = ENTRIES) -> Form:
    """A list of values of this form."""

    def fault(value: Any) -> str:
        if not isinstance(value, list) or not least <= len(cast("list[Any]", value)) <= most:
            return f"a list of {least:,} to {most:,} values, received {_shown(value)}"
        faults = (
            f"{wrong} (at {place})" for place, inner in enumerate(cast("list[Any]", value)) if (wrong := form(inner))
        )
        return next(faults, "")

    return fault


def by_name(form: Form, most: int = ENTRIES) -> Form:
    """An object whose values all have this form."""

    def fault(value: Any) -> str:
        if not isinstance(value, dict) or len(cast("dict[str, Any]", value)) > most:
            return f"an object, received {_shown(value)}"
        pairs = cast("dict[str, Any]", value).items()
        return next((f"{wrong} (under {name[:80]})" for name, inner in pairs if (wrong := form(inner))), "")

    return fault


def fields(forms: Mapping[str, Form], needed: tuple[str, ...] = ()) -> Form:
    """An object in which these keys, where they are given, have these forms."""

    def fault(value: Any) -> str:
        if not isinstance(value, dict):
            return f"an object, received {_shown(value)}"
        content = cast("dict[str, Any]", value)
        if lacking := [name for name in needed if name not in content]:
            return f"{lacking[0]}, received none"
        pairs = ((name, form(content[name])) for name, form in forms.items() if name in content)
        return next((f"{wrong} (under {name})" for name, wrong in pairs if wrong), "")

    return fault


def _range(low: float, high: float) -> str:
    return "" if (low, high) == (-MOST, MOST) else f" from {low:g} to {high:g}"


def _shown(value: Any) -> str:
    shown = f"{type(value).__name__} {value!r}" if isinstance(value, str | int | float) else type(value).__name__
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
