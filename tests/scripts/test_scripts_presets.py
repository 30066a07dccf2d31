"""The table of presets, from runs that are done."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.system.files import write_json


@pytest.fixture(scope="module")
def presets(root: Path) -> dict[str, Any]:
    return runpy.run_path(str(root / "scripts" / "presets.py"))


@pytest.fixture
def done(tmp_path: Path) -> Callable[..., Path]:
    """A finished run's folder, as far as the table reads it."""

    def write(preset: str, seed: int, accuracy: float, seconds: float = 90.0, overrides: tuple[str, ...] = ()) -> Path:
        folder = tmp_path / preset / f"seed{seed}"
        (folder / ".hydra").mkdir(parents=True)
        words = [f"experiment={preset}", f"seed={seed}", *overrides]
        (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
        write_json(folder / "metrics.json", {"test/accuracy": accuracy, "seconds": {"fit": seconds}})
        write_json(folder / "plan.json", {"parameters": {"trainable": 2562}})
        return folder

    return write


def test_the_table_has_a_row_a_preset(presets, done, tmp_path, capsys):
    for seed, accuracy in enumerate((0.84, 0.85, 0.86)):
        done("lp_ft", seed, accuracy)
    for seed in range(3):
        done("gradual", seed, 0.8)
    words = ["--presets", "lp_ft", "gradual", "--seeds", "0", "1", "2", "--folder", str(tmp_path)]
    assert presets["main"](words) == 0
    table = (tmp_path / "presets.md").read_text()
    assert table.splitlines() == [
        "| preset | test accuracy | of each seed | trainable parameters | time of `fit` |",
        "| --- | --- | --- | --- | --- |",
        "| lp_ft | 0.8500 ± 0.0100 | 0.8400, 0.8500, 0.8600 | 2,562 | 1 min 30 s |",
        "| gradual | 0.8000 ± 0.0000 | 0.8000, 0.8000, 0.8000 | 2,562 | 1 min 30 s |",
    ]
    assert table in capsys.readouterr().out


def test_a_run_of_other_words_is_not_taken_for_this_one(presets, done, tmp_path):
    done("lp_ft", 0, 0.84, overrides=("trainer.max_epochs=1",))
    with pytest.raises(SystemExit, match=r"expected a run of experiment=lp_ft seed=0, received .*max_epochs=1; try"):
        presets["main"](["--presets", "lp_ft", "--folder", str(tmp_path)])


def test_every_experiment_is_a_preset(presets, root):
    assert {"feature_extraction", "last_stage", "full_finetune", "gradual", "lp_ft"} <= set(presets["PRESETS"])
    assert len(presets["PRESETS"]) == len(list((root / "conf" / "experiment").glob("*.yaml")))
