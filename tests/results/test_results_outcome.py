"""What a run leaves in its folder, of a small network trained in this process."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from graft.config.compose import parse, register
from graft.config.faults import RunFailed
from graft.pipeline.run import run
from graft.report.record import read_run
from graft.results.resampling import figures

TINY = (
    "backbone=timm", "backbone.name=test_efficientnet", "freeze=none", "data.image_size=32",
    "data.batch_size=8", "cache=none", "trainer.engine=false", "trainer.accelerator=cpu", "trainer.progress=false",
    "trainer.max_epochs=1", "trainer.precision=32-true",
)  # fmt: skip


@pytest.fixture
def donor(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_efficientnet", num_classes=5).state_dict(), tmp_path / "donor.pth")
    return tmp_path / "donor.pth"


def carry_out(root: Path, folder: Path, *words: str) -> float | None:
    source = () if "data=csv" in words else ("data=folder", f"data.root={folder}")
    chosen = [*TINY, *source, *words]
    register()
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        config = parse(compose("config", chosen))
    return run(config, folder.parent / "run", chosen)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_statistics_of_the_heads_batch_norm_are_recorded_as_trained_with_freeze_bn_all(
    root: Path, images: Path, donor: Path, tmp_path: Path
):
    head = ("head=mlp", "head.hidden=[8]", "head.norm=batch")
    carry_out(root, images, "freeze_bn=all", "donor=file", f"donor.path={donor}", *head)
    each = read(tmp_path / "run" / "model" / "model.json")["tensors"]["each"]
    before, after = torch.load(donor), load_file(tmp_path / "run" / "model" / "model.safetensors")
    statistics = {name for name in each if name.endswith(("running_mean", "running_var"))}
    of_head = {name for name in statistics if not torch.equal(after[name], before.get(name, after[name] + 1))}
    assert len(of_head) == 2
    assert {name for name in statistics if each[name]["trained"]} == of_head


def test_a_run_of_nothing_but_nan_fails_and_exports_no_model(root: Path, images: Path, tmp_path: Path):
    wild = ("donor=none", "optimizer.name=sgd", "optimizer.lr=1e18", "data.batch_size=24")
    with pytest.raises(RunFailed, match=r"val/loss is a number, received nan after 1 epoch, .* try a lower"):
        carry_out(root, images, *wild)
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"plan.json", "transfer.json", "metrics.csv", "checkpoints"}


def test_a_class_that_a_part_lacks_is_left_out_everywhere_alike(
    root: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The third class stands in train alone."""
    lines = ["path,label,split"]
    for path in sorted(images.rglob("*.png")):
        part, name = path.parts[-3], path.parts[-2]
        third = part == "train" and int(path.stem) < 4
        lines.append(f"{path},{'third' if third else name},{part}")
    table = images / "table.csv"
    table.write_text("\n".join(lines), encoding="utf-8")
    chosen = ("checkpoint.monitor=val/auroc", "checkpoint.direction=max")
    monitored = carry_out(root, images, "donor=none", "data=csv", f"data.root={table}", *chosen)
    run = tmp_path / "run"
    metrics, model, record = read(run / "metrics.json"), read(run / "model" / "model.json"), read_run(run)
    with open(run / "metrics.csv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    for name in ("accuracy", "f1", "auroc"):
        full = f"val/{name}"
        said = record.predictions["val"]
        computed = figures(said.answers_NK, said.truth, said.task)[name]
        for value in (metrics[full], model["metrics"][full], model["intervals"][full]["value"], float(row[full])):
            assert value == pytest.approx(computed, abs=1e-5), full
    assert monitored == metrics["val/auroc"]
    assert metrics["intervals"] == model["intervals"]
    assert metrics["intervals"]["val/accuracy"]["method"] == "Wilson"
    out = {f"{part}/{name}": ["third"] for part in ("val", "test") for name in ("f1", "auroc")}
    assert metrics["left_out"] == model["left_out"] == out
    line = "has no image of third: left out of macro-F1, AUROC"
    assert f"test {line}" in capsys.readouterr().out
    for file in (run / "report.html", run / "model" / "README.md"):
        text = file.read_text(encoding="utf-8")
        assert f"val {line}." in text
        assert f"test {line}." in text


def test_terminal_report_metrics_and_table_call_the_best_epoch_by_one_number(
    root: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    carry_out(root, images, "donor=none", "trainer.max_epochs=2", "optimizer.lr=1e-9", "optimizer.name=sgd")
    run = tmp_path / "run"
    with open(run / "metrics.csv", encoding="utf-8", newline="") as file:
        losses = {int(row["epoch"]): float(row["val/loss"]) for row in csv.DictReader(file)}
    best = read(run / "metrics.json")["best_epoch"]
    assert set(losses) == {1, 2}
    assert losses[best] == min(losses.values())
    assert f"best epoch {best} of 2" in capsys.readouterr().out
    assert f"Dotted: epoch {best}, whose weights were kept." in (run / "report.html").read_text(encoding="utf-8")
