"""What a run leaves behind, of one tiny training: every file tells the same, and the exported network does it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import graft
from graft.config.choices import TaskKind
from graft.config.faults import RunFailed
from graft.finetune.module import FineTuning
from graft.pipeline.outcome import summary, write_page

RunHere = Callable[..., float | None]

EPOCHS, BATCHES, STEPS = 2, 5, 3  # 24 images in batches of 5, two of which make a step


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory, write_images: Callable[[Path], Path], run_here: RunHere
) -> SimpleNamespace:
    images = write_images(tmp_path_factory.mktemp("whole") / "images")
    (images / "train" / "down").rename(images / "train" / "Zig zag")  # what sorts last in one order, first in another
    for part in ("val", "test"):
        (images / part / "down").rename(images / part / "Zig zag")
    folder = images.parent / "run"
    value = run_here(
        folder, f"data.root={images}", "data.batch_size=5", "trainer.accumulate=2", f"trainer.max_epochs={EPOCHS}",
        "optimizer.lr=0.003", "loss.label_smoothing=0.1", "trainer.latency=true",
    )  # fmt: skip
    return SimpleNamespace(
        folder=folder, value=value, metrics=read(folder / "metrics.json"), plan=read(folder / "plan.json"),
        record=read(folder / "model" / "model.json"), said=rows_of(folder / "predictions.csv"),
        epochs=rows_of(folder / "metrics.csv"),
    )  # fmt: skip


def class_of(path: str) -> str:
    return Path(path).parent.name


def test_the_exported_networks_answers_are_the_predictions_under_the_classes_own_names(ended: SimpleNamespace):
    """Not only consistent: the true class of an image is the name of its folder."""
    model = graft.load(ended.folder)
    assert list(model.classes) == ended.record["classes"] == ended.plan["classes"]
    assert sorted(model.classes) == ["Zig zag", "across"]
    assert len(ended.said) == 24
    for row in ended.said:
        assert row["label"] == model.classes[int(row["target"])] == class_of(row["path"])
        with torch.no_grad():
            probabilities = model.answers(model(model.preprocess(row["path"])[None]))[0]
        told = [float(row[f"prob_{place}"]) for place in range(2)]
        assert told == pytest.approx(probabilities.tolist(), abs=1e-3)


def test_the_figures_are_those_of_the_predictions(ended: SimpleNamespace):
    classes = ended.record["classes"]
    for part in ("val", "test"):
        rows = [row for row in ended.said if row["part"] == part]
        answers = [[float(row[f"prob_{place}"]) for place in range(2)] for row in rows]
        trues = [class_of(row["path"]) for row in rows]
        said = [classes[int(np.argmax(answer))] for answer in answers]
        right = [told == true for told, true in zip(said, trues, strict=True)]
        losses = [-np.log(answer[classes.index(true)]) for answer, true in zip(answers, trues, strict=True)]
        assert ended.metrics[f"{part}/accuracy"] == pytest.approx(np.mean(right))
        assert ended.metrics[f"{part}/loss"] == pytest.approx(np.mean(losses), rel=1e-3)
        confusion = [
            [sum(pair == (true, told) for pair in zip(trues, said, strict=True)) for told in classes]
            for true in classes
        ]
        assert ended.metrics["confusion"][part] == confusion
        interval = ended.record["intervals"][f"{part}/accuracy"]
        assert interval["low"] <= ended.metrics[f"{part}/accuracy"] <= interval["high"]


def test_the_best_epoch_is_the_rows_and_the_records(ended: SimpleNamespace):
    losses = {int(row["epoch"]): float(row["val/loss"]) for row in ended.epochs}
    best = ended.metrics["best_epoch"]
    assert losses[best] == min(losses.values()) == pytest.approx(ended.metrics["val/loss"], rel=1e-3)
    assert ended.value == ended.metrics["val/loss"]
    figures = {name: value for name, value in ended.metrics.items() if name.startswith(("val/", "test/"))}
    assert ended.record["metrics"] == figures
    assert {"val/accuracy", "test/accuracy", "val/f1", "test/auroc"} <= set(figures)


def test_the_steps_of_the_plan_are_taken(ended: SimpleNamespace):
    """The last, incomplete accumulation of an epoch is a step."""
    assert (ended.plan["steps_per_epoch"], ended.plan["steps"]) == (STEPS, STEPS * EPOCHS)
    assert ended.metrics["steps"] == STEPS * EPOCHS
    assert [int(row["step"]) for row in ended.epochs] == [STEPS * (epoch + 1) for epoch in range(EPOCHS)]
    assert (ended.metrics["epochs"], ended.metrics["batch_size"], ended.metrics["accumulate"]) == (EPOCHS, 5, 2)
    assert ended.metrics["steps_skipped"] == 0


def test_what_is_counted_and_timed(ended: SimpleNamespace):
    metrics = ended.metrics
    assert metrics["parameters"] == sum(each.numel() for each in graft.load(ended.folder).parameters())
    assert metrics["parameters"] == ended.plan["parameters"]["total"]
    assert (metrics["lr"], metrics["lr_found"]) == (0.003, False)
    assert metrics["frozen_verified"] is None
    assert metrics["frozen_statistics_moved"] == 0
    assert metrics["latency_ms"] > 0
    assert metrics["train/seconds"] > 0
    assert metrics["train/images_per_second"] > 0
    assert sum(metrics["profile"].values()) == pytest.approx(1, abs=0.01)
    assert {"data", "plan", "build", "transfer", "fit", "export", "latency"} <= set(metrics["seconds"])
    assert metrics["seconds_to_first_step"] > 0


def test_the_record_says_how_it_came_about(ended: SimpleNamespace):
    record = ended.record
    assert record["command"].startswith("graft train data.root=")
    assert record["donor"]["source"] == "none"
    assert record["freeze"]["expression"] == "none"
    assert record["freeze"]["verified"] is None
    assert record["data"]["kind"] == "folder"
    assert record["data"]["parts"]["test"] == {"Zig zag": 6, "across": 6}
    each = record["tensors"]["each"]
    assert all(tensor["origin"] == "initialized" and tensor["trained"] for tensor in each.values())
    assert set(each) == set(graft.load(ended.folder).state_dict())
    drift = read(ended.folder / "drift.json")
    assert [row["stage"] for row in drift["stages"]] == [row["name"] for row in ended.plan["stages"]]
    assert all(row["change"] > 0 for row in drift["stages"])
    assert "report.html" in {path.name for path in ended.folder.iterdir()}


def test_no_latency_is_measured_unless_it_is_asked_for(run_here: RunHere, images: Path, tmp_path: Path):
    run_here(tmp_path / "run", f"data.root={images}")
    assert "latency_ms" not in read(tmp_path / "run" / "metrics.json")


class StopAfter:
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.seen: list[Mapping[str, Any]] = []

    def should_stop(self, step: int, figures: Mapping[str, Any]) -> bool:
        self.seen.append(dict(figures))
        return step + 1 == self.epochs


def test_a_pruned_trial_leaves_its_best_figures_and_no_model(
    run_here: RunHere, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder, watcher = tmp_path / "run", StopAfter(2)
    value = run_here(folder, f"data.root={images}", "trainer.max_epochs=4", watcher=watcher)
    best = min(watcher.seen, key=lambda row: row["val/loss"])
    metrics = read(folder / "metrics.json")
    assert (metrics["pruned"], metrics["epochs"]) == (True, 2)
    assert value == metrics["val/loss"] == best["val/loss"]
    assert metrics["train/loss"] == best["train/loss"]
    assert "seconds" in metrics
    assert not (folder / "model").exists()
    assert not (folder / "report.html").exists()
    assert "stopped early, after epoch 2" in capsys.readouterr().out


def test_a_frozen_tensor_that_moved_fails_the_run_and_is_told_everywhere(
    run_here: RunHere, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    import timm

    torch.manual_seed(0)
    torch.save(timm.create_model("test_efficientnet", num_classes=5).state_dict(), tmp_path / "donor.pth")
    step = FineTuning.training_step

    def leaking(self: FineTuning, *args: Any) -> torch.Tensor:
        with torch.no_grad():
            self.network.get_parameter("conv_stem.weight").add_(1e-6)
        return step(self, *args)

    monkeypatch.setattr(FineTuning, "training_step", leaking)
    folder = tmp_path / "run"
    with pytest.raises(RunFailed, match=r"frozen tensors moved \(conv_stem\.weight\); do not trust the weights in"):
        run_here(folder, f"data.root={images}", "freeze=stem", "donor=file", f"donor.path={tmp_path / 'donor.pth'}")
    assert read(folder / "metrics.json")["frozen_verified"] is False
    assert read(folder / "model" / "model.json")["freeze"]["verified"] is False
    assert "FROZEN TENSORS MOVED" in capsys.readouterr().out


def test_a_page_that_cannot_be_written_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_page(tmp_path / "nowhere")
    assert re.match(r"report\.html was not written: .*nowhere", capsys.readouterr().err)


MEASURED = {
    "val/loss": 0.5, "val/accuracy": 0.75, "val/f1": 0.7, "val/auroc": 0.5, "best_epoch": 2, "epochs": 4,
    "train/seconds": 12.34, "frozen_verified": True, "frozen_statistics_moved": 0, "left_out": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            ["val: accuracy 0.7500, macro-F1 0.7000, AUROC", "best epoch 2 of 4, 12.3 s of training", "verified\nrun"],
        ),
        ({"test/loss": 1.0, "test/accuracy": 0.5, "test/f1": 0.25}, ["test: accuracy 0.5000, macro-F1 0.2500\n"]),
        ({"frozen_verified": False}, ["FROZEN TENSORS MOVED\n"]),
        ({"frozen_verified": None}, ["nothing was frozen\n"]),
        (
            {"frozen_statistics_moved": 3},
            ["verified, but for 3 batch-norm statistics that moved, as freeze_bn=none lets them\n"],
        ),
    ],
)
def test_the_last_words_of_a_run(changes: dict[str, Any], expected: list[str], tmp_path: Path):
    text = summary({**MEASURED, **changes}, TaskKind.single_label, tmp_path)
    assert all(piece in text for piece in expected), text
    assert text.endswith(f"run: {tmp_path}")


def test_the_numbers_of_a_regression_are_its_own_figures(tmp_path: Path, run_here: RunHere):
    rng = np.random.default_rng(0)
    lines = ["path,warmth"]
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{100 + number}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    run_here(
        tmp_path / "run", "data=csv", f"data.root={tmp_path / 'table.csv'}", "data.task=regression",
        "data.columns=[warmth]", "data.val_fraction=0.5",
    )  # fmt: skip
    metrics = read(tmp_path / "run" / "metrics.json")
    rows = [row for row in rows_of(tmp_path / "run" / "predictions.csv") if row["part"] == "val"]
    assert [100 + int(Path(row["path"]).stem) for row in rows] == [float(row["true_warmth"]) for row in rows]
    gaps = [abs(float(row["true_warmth"]) - float(row["predicted_warmth"])) for row in rows]
    assert metrics["val/mae"] == pytest.approx(np.mean(gaps), rel=1e-3)
    assert "confusion" not in metrics
