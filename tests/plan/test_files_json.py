"""JSON that any reader takes."""

import json
import math
from pathlib import Path

from graft.system.files import write_json


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def test_what_is_no_finite_number_is_null(tmp_path: Path):
    nan, infinity = math.nan, math.inf
    write_json(tmp_path / "a.json", {"a": nan, "b": [1.5, -infinity, {"c": (infinity, 2)}], "d": "NaN", "e": None})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=refuse)
    assert found == {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": "NaN", "e": None}
