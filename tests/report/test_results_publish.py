"""Trackers are given the config, the ledger's summary, mistakes as images and the model; read back from their files."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import Logger

from graft.config.faults import RunFailed
from graft.config.schema import (
    BackboneConfig,
    CacheConfig,
    Config,
    DataConfig,
    DataKind,
    Library,
    LoggerConfig,
    OptimizerConfig,
    TrainerConfig,
)
from graft.finetune.callbacks import make_loggers
from graft.finetune.pruning import Pruned
from graft.report.publish import announce, close_on_failure, flat, publish
from graft.results.predictions import Predictions, write_predictions
from graft.system.files import write_json
from graft.system.stopping import Stopped

CLASSES = ("ant", "bee", "cicada")
LEDGER = {"copied": 3, "initialized": 2, "parameters_transferred_fraction": 0.75}


def config() -> Config:
    return Config(
        seed=7,
        backbone=BackboneConfig(library=Library.timm, name="test_efficientnet"),
        optimizer=OptimizerConfig(name="adamw", lr=0.003),
        data=DataConfig(kind=DataKind.folder),
        cache=CacheConfig(),
        trainer=TrainerConfig(max_epochs=2),
    )


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service of Weights & Biases has 30 s to start, which a machine that is busy with other tests may exceed."""
    monkeypatch.setenv("WANDB__SERVICE_WAIT", "300")


@pytest.fixture
def tracked(timm_model: Path, pictures: Path, tmp_path: Path) -> Callable[[LoggerConfig], Path]:
    """A finished run's folder whose trackers were told everything; of six images the first two are mistakes."""

    def track(wanted: LoggerConfig) -> Path:
        run = tmp_path / "run"
        shutil.copytree(timm_model, run / "model")
        loggers: Sequence[Logger] = make_loggers(wanted, run)
        announce(loggers, config(), LEDGER)
        for logger in loggers:
            logger.log_metrics({"val/loss": 0.5}, 10)
        paths = tuple(str(path) for path in sorted(pictures.rglob("*.png")))
        answers = np.array([[0.1, 0.8, 0.1], [0.05, 0.05, 0.9], *([[0.6, 0.2, 0.2]] * 4)])
        said = Predictions(part="val", paths=paths, truth=np.zeros(6, np.int64), answers_NK=answers)
        write_predictions(run, [said], classes=CLASSES)
        write_json(run / "metrics.json", {"val/accuracy": 4 / 6, "steps": 20, "frozen_verified": True})
        publish(loggers, run)
        return run

    return track


def test_keys_are_flat_with_dots() -> None:
    values = flat({"data": {"kind": DataKind.folder, "root": None}, "seed": 1, "adapt": {}})
    assert values == {"data.kind": "folder", "data.root": None, "seed": 1, "adapt": {}}


def test_tensorboard_s_files_hold_it(tracked: Callable[[LoggerConfig], Path], pictures: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tracked(LoggerConfig(tensorboard=True))
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    assert [(point.step, point.value) for point in events.Scalars("val/loss")] == [(10, 0.5)]
    assert [(point.step, round(point.value, 4)) for point in events.Scalars("final/val/accuracy")] == [(20, 0.6667)]
    assert events.Tags()["images"] == ["mistakes/00", "mistakes/01"]  # the most confident first
    shown = events.Images("mistakes/00")[0]
    first = sorted(pictures.rglob("*.png"))[1]
    assert (shown.width, shown.height) == (90, 70)
    words = events.Tensors("mistakes/00/text_summary")[0].tensor_proto.string_val[0].decode()
    assert words == f"{first.name}: labelled ant, predicted cicada 0.90"
    told = json.loads(events.Tensors("model/text_summary")[0].tensor_proto.string_val[0])
    assert told["sha256"] == json.loads((run / "model" / "model.json").read_text())["weights"]["sha256"]
    written = (run / "tensorboard" / "hparams.yaml").read_text()
    assert "optimizer.lr: 0.003" in written
    assert "ledger.copied: 3" in written


@pytest.mark.slow
def test_mlflow_s_store_holds_it(tracked: Callable[[LoggerConfig], Path], tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    run = tracked(LoggerConfig(mlflow=str(tmp_path / "store"), project="cells"))
    client = MlflowClient((tmp_path / "store").as_uri())
    experiment = client.get_experiment_by_name("cells")
    assert experiment is not None
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.info.status == "FINISHED"
    assert kept.data.params["optimizer.lr"] == "0.003"
    assert kept.data.params["ledger.copied"] == "3"
    assert kept.data.metrics["val/loss"] == 0.5
    assert kept.data.metrics["final/val/accuracy"] == pytest.approx(4 / 6)
    assert kept.data.tags["mistakes.00"].endswith("labelled ant, predicted cicada 0.90")
    files = {file.path for place in ("mistakes", "model") for file in client.list_artifacts(kept.info.run_id, place)}
    kept_files = {f"model/{path.name}" for path in (run / "model").iterdir()}
    assert {"model/model.json", "model/model.safetensors"} <= kept_files
    assert files == {"mistakes/00.png", "mistakes/01.png", *kept_files}
    stored = client.download_artifacts(kept.info.run_id, "model/model.safetensors", str(tmp_path))
    assert Path(stored).read_bytes() == (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_weights_and_biases_offline_keeps_it(tracked: Callable[[LoggerConfig], Path]) -> None:
    run = tracked(LoggerConfig(wandb="offline", project="cells"))
    (kept,) = (run / "wandb").glob("offline-run-*")
    (log,) = kept.glob("run-*.wandb")
    for told in (
        b"optimizer.lr",
        b"ledger.copied",
        b"0.6666666666666666",
        b"predicted cicada 0.90",
        b"model.safetensors",
    ):
        assert told in log.read_bytes()
    assert len(list((kept / "files" / "media" / "images").rglob("*.png"))) == 2


def ends(loggers: Sequence[Logger], error: BaseException) -> None:
    """A training that breaks off after one epoch, as Lightning leaves its trackers."""
    announce(loggers, config(), LEDGER)
    with suppress(type(error)), close_on_failure(loggers):
        for logger in loggers:
            logger.log_metrics({"val/loss": 0.5}, 10)
            logger.finalize("failed")
        raise error


def test_a_training_that_breaks_off_says_its_state_to_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    broken = {"pruned": Pruned([]), "stopped": Stopped(signal.SIGTERM), "failed": RunFailed("NaN")}
    for state, error in broken.items():
        ends(make_loggers(LoggerConfig(tensorboard=True), tmp_path / state), error)
        events = EventAccumulator(str(tmp_path / state / "tensorboard"), size_guidance={"tensors": 0})
        events.Reload()
        assert events.Tensors("state/text_summary")[0].tensor_proto.string_val == [state.encode()]
        assert [point.value for point in events.Scalars("val/loss")] == [0.5]
        assert "optimizer.lr: 0.003" in (tmp_path / state / "tensorboard" / "hparams.yaml").read_text()


@pytest.mark.slow
def test_mlflow_does_not_take_an_early_end_for_a_failure(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    wanted = LoggerConfig(mlflow=str(tmp_path / "store"), project="cells")
    for error in (Pruned([]), RunFailed("NaN")):
        ends(make_loggers(wanted, tmp_path / type(error).__name__), error)
    client = MlflowClient((tmp_path / "store").as_uri())
    experiment = client.get_experiment_by_name("cells")
    assert experiment is not None
    kept = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name: (run.info.status, run.data.tags["state"]) for run in kept} == {
        "Pruned": ("KILLED", "pruned"), "RunFailed": ("FAILED", "failed")
    }  # fmt: skip
    assert all(run.info.end_time for run in kept)


@pytest.mark.slow
def test_the_next_trial_of_a_process_has_a_run_of_its_own_with_weights_and_biases(tmp_path: Path) -> None:
    for name in ("0", "1"):
        ends(make_loggers(LoggerConfig(wandb="offline", project="cells"), tmp_path / name), Pruned([]))
        (log,) = (tmp_path / name / "wandb").glob("offline-run-*/run-*.wandb")
        assert b"pruned" in log.read_bytes()


def test_without_trackers_nothing_is_read(tmp_path: Path) -> None:
    publish([], tmp_path / "nowhere")
    assert make_loggers(LoggerConfig(), tmp_path) == []


def test_a_mistake_whose_file_has_gone_is_left_out(tmp_path: Path) -> None:
    said = Predictions(part="val", paths=("gone.png",), truth=np.array([0]), answers_NK=np.array([[0.1, 0.9]]))
    write_predictions(tmp_path, [said], classes=("ant", "bee"))
    write_json(tmp_path / "metrics.json", {"steps": 1})

    class Seen(Logger):
        name, version = "seen", 0
        rows: list[tuple[dict[str, float], int | None]]

        def __init__(self) -> None:
            self.rows = []

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.rows.append((metrics, step))

        def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
            pass

    seen = Seen()
    publish([seen], tmp_path)
    assert seen.rows == [({"final/steps": 1.0}, 1)]
    assert np.isfinite(seen.rows[0][0]["final/steps"])
