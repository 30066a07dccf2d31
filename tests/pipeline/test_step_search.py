"""trainer.tune=auto in a run: measured once for what a step is, remembered, and kept by a run that goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.config.faults import InputError
from graft.system.files import write_json

Run = Callable[..., float | None]


@pytest.fixture(scope="module")
def tuned(
    tmp_path_factory: pytest.TempPathFactory, run_here: Run, write_images: Callable[[Path], Path]
) -> Callable[..., dict[str, Any]]:
    """tuned(folder, …) is the tune.json of a run in folder, on images and a cache that all share."""
    place = tmp_path_factory.mktemp("tuned")
    images = write_images(place / "images")

    def run(folder: Path, *words: str) -> dict[str, Any]:
        cache = ("cache=auto", f"cache.dir={place / 'cache'}")
        run_here(folder, f"data.root={images}", "trainer.tune=auto", *cache, *words)
        return json.loads((folder / "tune.json").read_text())

    return run


def test_a_step_is_measured_anew_where_it_is_another(
    tuned: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {
        "first": (), "again": (), "another rate": ("optimizer.lr=0.002",), "larger batches": ("data.batch_size=12",),
        "another optimizer": ("optimizer.name=adam",), "accumulated": ("trainer.accumulate=2",),
        "another network": ("head=mlp",),
    }  # fmt: skip
    measured, found = {}, {}
    for name, words in changes.items():
        found[name] = tuned(tmp_path / name, *words)
        measured[name] = "step      measured over" in capsys.readouterr().out
    assert measured == {
        **dict.fromkeys(changes, True), "again": False, "another rate": False,
    }  # fmt: skip
    assert found["again"] == found["another rate"] == found["first"]
    assert found["larger batches"]["shapes"]["image"] == ["torch.float32", 12, 3, 32, 32]


def test_a_run_that_goes_on_keeps_its_step_and_says_what_it_is_for(
    tuned: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tuned(tmp_path / "run")
    halved = {"channels_last": False, "precision": "bf16-mixed", "compile": False, "update": found["chosen"]["update"]}
    assert found["chosen"] in [{name: each[name] for name in halved} for each in found["tried"]]
    write_json(tmp_path / "run" / "tune.json", {**found, "chosen": halved})
    capsys.readouterr()
    again = tuned(tmp_path / "run")
    said = capsys.readouterr().out
    assert again["chosen"] == halved
    assert "step      chosen before the run was interrupted\n" in said
    assert "\n          for training steps only, in bf16-mixed; evaluation in float32, as exported\n" in said
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["precision"] == {"train": "bf16-mixed", "evaluation": "32-true"}
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["precision"] == plan["precision"]


def test_a_run_that_goes_on_without_its_record_is_answered(
    tuned: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    tuned(tmp_path / "run")
    (tmp_path / "run" / "tune.json").unlink()
    with pytest.raises(InputError, match=r"trainer\.tune: expected .*tune\.json, .* try trainer\.tune=off"):
        tuned(tmp_path / "run", "trainer.max_epochs=2")
