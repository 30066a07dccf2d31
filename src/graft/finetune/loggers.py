"""Trackers that follow a run beside metrics.csv: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from graft.config.schema import LoggerConfig
from graft.config.trackers import is_file_store


def make_loggers(config: LoggerConfig, folder: Path) -> list[Logger]:
    """The trackers that the config asks for; their packages are there, as the config's check found."""
    loggers: list[Logger] = []
    if config.tensorboard:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    if config.wandb != "off":
        offline = config.wandb == "offline"
        folder.mkdir(parents=True, exist_ok=True)
        loggers.append(WandbLogger(name=folder.name, save_dir=folder, project=config.project, offline=offline))
    if config.mlflow is not None:
        if is_file_store(config.mlflow):
            # MLflow keeps its store of plain files behind this word, as it puts new features into databases alone.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = config.mlflow if ":" in config.mlflow else Path(config.mlflow).absolute().as_uri()
        loggers.append(MLFlowLogger(experiment_name=config.project, run_name=folder.name, tracking_uri=uri))
    return loggers
