"""docs/reference.md says what the schema says."""

from __future__ import annotations

from pathlib import Path

from graft.config.help import reference
from graft.config.keys import leaves


def test_the_page_in_the_docs_is_the_schema_s(root: Path) -> None:
    page = (root / "docs" / "reference.md").read_text()
    assert page == reference(root / "conf"), "docs/reference.md is stale: run `python scripts/write_reference.py`"


def test_every_key_stands_in_it_once_with_its_default(root: Path) -> None:
    rows = [line for line in reference(root / "conf").splitlines() if line.startswith("| `")]
    assert sorted(row.split("`")[1] for row in rows) == sorted(key.name for key in leaves())
    assert "| `optimizer.layer_decay` | a number or null | `null` |" in "\n".join(rows)
    assert "one of pretrained, file, run, keras, none | *set by the option*" in "\n".join(rows)
