"""docs/reference.md: every key of the schema and every option of conf/, written from the files themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path

from graft.config.examples import written
from graft.config.help import groups_of
from graft.config.keys import Key, schema_keys

OPENING = """\
# Every key

Written from the schema by `python scripts/write_reference.py`; a test fails when it is stale. A command's values are
shown by `python train.py --cfg job …`. A key whose default is *set by the option* takes its value from the file
`conf/GROUP/OPTION.yaml` that `GROUP=OPTION` names."""


def reference(conf: Path) -> str:
    """The page, for the schema and the groups that the folder conf holds."""
    options = groups_of(conf)
    return "\n\n".join([OPENING, *_sections(options)]) + "\n"


def _sections(options: dict[str, list[str]]) -> Iterator[str]:
    keys = list(schema_keys().values())
    top = [key for key in keys if "." not in key.name]
    yield "## A run\n\n" + _table([key for key in top if not key.is_group])
    for group in (key for key in top if key.is_group):
        below = [key for key in keys if key.name.startswith(f"{group.name}.") and not key.is_group]
        yield f"## {group.name}\n\n{group.doc}{_options(options.get(group.name, []))}\n\n{_table(below)}"
    if "experiment" in options:
        yield f"## experiment\n\nSeveral groups and keys set together.{_options(options['experiment'])}"


def _options(names: list[str]) -> str:
    return f" Options: {', '.join(f'`{name}`' for name in names)}." if names else ""


def _table(keys: list[Key]) -> str:
    return "\n".join(["| key | what is expected | default | meaning |", "| --- | --- | --- | --- |", *map(_row, keys)])


def _row(key: Key) -> str:
    default = "*set by the option*" if key.default is MISSING else f"`{written(key.default) or '(empty)'}`"
    cells = (f"`{key.name}`", key.expected, default, " ".join(key.doc.split()))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
