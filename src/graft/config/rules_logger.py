"""What the logger's keys need: installed packages, and another key to have an effect."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from graft.config.faults import Fault
from graft.config.schema import LoggerConfig

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny"}
"""Module to the package that brings it."""


def is_file_store(uri: str) -> bool:
    """Whether MLflow would keep plain files there: a path, or one behind file:."""
    return uri.startswith("file:") or ":" not in uri


def logger_faults(config: LoggerConfig) -> Iterator[Fault]:
    """Said before anything is built, let alone trained."""
    wanted = {"tensorboard": config.tensorboard, "wandb": config.wandb != "off", "mlflow": config.mlflow is not None}
    for module, package in PACKAGES.items():
        if wanted[module] and find_spec(module) is None:
            yield Fault(
                key=f"logger.{module}",
                expected=f"the package {package}",
                received="an environment without it",
                remedy=f"pip install {package}",
            )
    named = config.project != LoggerConfig().project
    if named and not (wanted["wandb"] or wanted["mlflow"]):
        yield Fault(
            key="logger.project",
            expected="nothing without Weights & Biases or MLflow, where it has no effect",
            received=repr(config.project),
            remedy="logger=wandb or logger=mlflow, or leave logger.project out",
        )
