"""Trackers' keys: a package that is not there is named before anything starts, a key without effect is refused."""

from __future__ import annotations

import pytest

from graft.config import rules_logger
from graft.config.rules_logger import is_file_store, logger_faults
from graft.config.schema import LoggerConfig


@pytest.mark.parametrize(
    ("wanted", "typed"),
    [
        (LoggerConfig(tensorboard=True), "pip install tensorboard"),
        (LoggerConfig(wandb="offline"), "pip install wandb"),
        (LoggerConfig(mlflow="outputs/mlruns"), "pip install mlflow-skinny"),
    ],
)
def test_a_missing_package_is_a_fault_with_the_line_to_type(
    wanted: LoggerConfig, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(logger_faults(wanted)) == []
    monkeypatch.setattr(rules_logger, "find_spec", lambda _: None)
    (fault,) = logger_faults(wanted)
    assert str(fault).endswith(f"; try {typed}")


def test_a_project_matters_only_to_trackers_that_have_one() -> None:
    (fault,) = logger_faults(LoggerConfig(tensorboard=True, project="cells"))
    assert fault.key == "logger.project"
    assert list(logger_faults(LoggerConfig(wandb="offline", project="cells"))) == []


def test_a_path_is_a_store_of_files() -> None:
    stores = {"outputs/mlruns": True, "file:///tmp/x": True, "sqlite:///x.db": False, "http://host:5000": False}
    assert {uri: is_file_store(uri) for uri in stores} == stores
