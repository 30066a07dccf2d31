"""Changes of a JSON document, as a stranger might make them, for hypothesis."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**400, 1e308, -0.0, float("nan"), float("inf")]),
    st.floats(),
    st.sampled_from(["", "x" * 100, "\x1b[31m", "=cmd|'/c calc'!A0", "<script>", "../../x", "\ud800", "\0", "64"]),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@st.composite
def mutated(draw: st.DrawFn) -> Callable[[Any], Any]:
    """A function that returns the document with one to three of its values replaced, removed or repeated.

    A place is found step by step from the outside, so that a long list is hit no more often than the value beside it.
    """
    turns = st.lists(st.integers(0, 10**6), min_size=1, max_size=5)
    steps = draw(st.lists(st.tuples(turns, st.sampled_from(["set", "drop", "twice"]), VALUES), min_size=1, max_size=3))

    def change(document: Any) -> Any:
        document = copy.deepcopy(document)
        for path, how, value in steps:
            holder, key = _place(document, path)
            if holder is None:
                return value
            if how == "drop":
                del holder[key]
            elif how == "twice" and isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            else:
                holder[key] = value
        return document

    return change


def _place(document: Any, path: list[int]) -> tuple[Any, Any]:
    """The container and the key to which these turns lead."""
    holder, key, inner = None, None, document
    for turn in path:
        keys = list(inner) if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        if not keys:
            break
        holder, key = inner, keys[turn % len(keys)]
        inner = holder[key]
    return holder, key
