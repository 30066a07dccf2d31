"""Callbacks of hydra.callbacks are told of a job by the installed Hydra, or it is said that they are not."""

import sys
from typing import ClassVar

import pytest
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from graft.config.hydra_callbacks import callbacks_of


class Noted(Callback):
    told: ClassVar[list[str]] = []

    def on_job_start(self, config, **kwargs):
        self.told.append("start")

    def on_job_end(self, config, job_return, **kwargs):
        self.told.append("end")


CONFIG = OmegaConf.create({"hydra": {"callbacks": {"noted": {"_target_": f"{__name__}.Noted"}}}})


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Noted.__module__])
    Noted.told.clear()


def test_the_installed_hydra_tells_them(importable):
    callbacks = callbacks_of(CONFIG)
    callbacks.on_job_start(config=CONFIG, task_function=print)
    callbacks.on_job_end(config=CONFIG, job_return=None)
    assert Noted.told == ["start", "end"]


def test_a_hydra_that_has_them_elsewhere_is_named(monkeypatch, capsys, importable):
    monkeypatch.setitem(sys.modules, "hydra._internal.callbacks", None)
    callbacks = callbacks_of(CONFIG)
    callbacks.on_job_start(config=CONFIG, task_function=print)
    callbacks.on_job_end(config=CONFIG, job_return=None)
    assert Noted.told == []
    assert "hydra.callbacks are not called" in capsys.readouterr().err
    callbacks_of(OmegaConf.create({"hydra": {}}))
    assert capsys.readouterr().err == ""
