"""What trackers receive in addition to the metrics: the config, the ledger's summary, mistakes and the model."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray

from graft.config.schema import Config
from graft.config.values import to_plain
from graft.data.pixels import Unreadable, read_pixels
from graft.finetune.pruning import Pruned
from graft.report.mistakes import MISTAKES
from graft.report.record import RunRecord, read_run
from graft.results.predictions import Predictions
from graft.system.processes import is_first
from graft.system.stopping import Stopped

Picture = tuple[str, NDArray[Any]]
"""A caption, and pixels as uint8 [H, W, 3]."""
PRUNED, STOPPED, FAILED = "pruned", "stopped", "failed"
MLFLOW = {PRUNED: "KILLED", STOPPED: "KILLED", FAILED: "FAILED"}


def announce(loggers: Sequence[Logger], config: Config, ledger: Mapping[str, Any]) -> None:
    """Logs every key of the config and the number of tensors by origin. To be called before training."""
    values = flat({**to_plain(config), "ledger": dict(ledger)})
    for logger in loggers:
        logger.log_hyperparams(values)


@contextmanager
def close_on_failure(loggers: Sequence[Logger]) -> Generator[None]:
    """Closes the trackers' runs as failed if the training inside raises.

    A run of Weights & Biases that is left open would also receive the logs of the process's next trial.
    """
    try:
        yield
    except BaseException as error:
        if is_first():
            _close(loggers, PRUNED if isinstance(error, Pruned) else STOPPED if isinstance(error, Stopped) else FAILED)
        raise


def _close(loggers: Sequence[Logger], state: str) -> None:
    for logger in loggers:
        match logger:
            case TensorBoardLogger():
                logger.experiment.add_text("state", state)
                logger.finalize("success")  # this also writes the hyperparameters
            case WandbLogger():
                experiment: Any = logger.experiment
                experiment.summary["state"] = state
                experiment.finish(exit_code=int(state == FAILED))
            case MLFlowLogger():
                assert logger.run_id is not None
                logger.experiment.set_tag(logger.run_id, "state", state)
                logger.finalize(MLFLOW[state])
            case _:
                logger.finalize(state)


def publish(loggers: Sequence[Logger], folder: Path) -> None:
    """Logs the final figures, the most confident mistakes as images, and the model. To be called after training."""
    if not loggers:
        return
    run = read_run(folder)
    step = int(run.metrics.get("steps", 0))
    figures = {f"final/{name}": float(value) for name, value in run.metrics.items() if type(value) in (int, float)}
    pictures = list(_mistakes(run))
    for logger in loggers:
        logger.log_metrics(figures, step)
        match logger:
            case TensorBoardLogger():
                _to_tensorboard(logger, pictures, run, step)
            case WandbLogger():
                _to_wandb(logger, pictures, folder)
            case MLFlowLogger():
                _to_mlflow(logger, pictures, folder)
            case _:
                pass
        logger.finalize("success")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as one mapping, under dotted keys such as `optimizer.lr`."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            leaves.update(flat(value, f"{prefix}{name}."))
        else:
            leaves[f"{prefix}{name}"] = value.value if isinstance(value, Enum) else value
    return leaves


def _mistakes(run: RunRecord) -> Iterator[Picture]:
    predictions: Predictions | None = run.predictions.get(run.judged)
    if predictions is None:
        return
    worth_a_look = MISTAKES[predictions.task]
    for row in worth_a_look.worst(predictions):
        try:
            pixels = read_pixels(predictions.paths[row], 3)
        except Unreadable:
            continue  # the file was there in training, but has been removed since
        yield (
            f"{Path(predictions.paths[row]).name}: {worth_a_look.words(predictions, row, run.classes).sentence}",
            pixels,
        )


def _to_tensorboard(logger: TensorBoardLogger, pictures: Sequence[Picture], run: RunRecord, step: int) -> None:
    writer: Any = logger.experiment
    for place, (words, pixels) in enumerate(pictures):
        writer.add_image(f"mistakes/{place:02d}", pixels, step, dataformats="HWC")
        writer.add_text(f"mistakes/{place:02d}", words, step)
    weights = {"folder": str(run.folder / "model"), **run.model.get("weights", {})}
    writer.add_text("model", json.dumps(weights), step)  # TensorBoard stores no models, so it gets the location
    writer.flush()


def _to_wandb(logger: WandbLogger, pictures: Sequence[Picture], folder: Path) -> None:
    import wandb

    if pictures:
        logger.log_image("mistakes", [pixels for _, pixels in pictures], caption=[words for words, _ in pictures])
    artifact = wandb.Artifact("model", type="model")
    artifact.add_dir(str(folder / "model"))
    experiment: Any = logger.experiment
    experiment.log_artifact(artifact)
    experiment.finish()


def _to_mlflow(logger: MLFlowLogger, pictures: Sequence[Picture], folder: Path) -> None:
    from PIL import Image

    client, run = logger.experiment, logger.run_id
    assert run is not None
    for place, (words, pixels) in enumerate(pictures):
        client.log_image(run, Image.fromarray(pixels), f"mistakes/{place:02d}.png")
        client.set_tag(run, f"mistakes.{place:02d}", words)
    client.log_artifacts(run, str(folder / "model"), "model")
