"""data.root says by itself whether it is a folder of class folders or a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.config.choices import DataKind
from graft.config.data_kind import with_data_kind
from graft.config.presets import composed


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (["data.root=photos"], "data=folder"),
        (["-m", "data.root='my photos'", "seed=1,2"], "data=folder"),
        (["data.root=table.CSV", "experiment=finetune"], "data=csv"),
        (["data.root=photos", "data=csv"], None),
        (["data.root=photos", "+data=mine"], None),
        (["data.root=a,b"], None),
        (["data.root=${oc.env:ROOT}"], None),
        (["seed=1"], None),
    ],
)
def test_the_kind_stands_behind_the_root(words: list[str], added: str | None) -> None:
    after = with_data_kind(words)
    assert [word for word in after if word not in words] == ([added] if added else [])
    assert [word for word in after if word != added] == [word for word in words if word != added]


def test_an_experiment_may_have_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: csv\n"
    )
    monkeypatch.chdir(tmp_path)
    assert with_data_kind(["data.root=x", "experiment=mine"]) == ["data.root=x", "experiment=mine"]


def test_commands_take_it(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
    assert composed([f"data.root={tmp_path}"]).data.kind is DataKind.folder
