"""The device, the precision and the processes that a config comes to, on GPUs that this machine need not have."""

from __future__ import annotations

import logging
import os
import re
import warnings
from types import SimpleNamespace

import pytest
import torch

from graft.config.faults import InputError
from graft.config.schema import TrainerConfig
from graft.finetune.hardware import (
    VARIABLE,
    device_type,
    hardware,
    known_to_be_none,
    precisions,
    quiet_lightning,
    strategy,
)


@pytest.mark.parametrize(
    ("generation", "precision"),
    [(7, "32-true"), (8, "bf16-mixed"), (9, "bf16-mixed")],  # Volta and Turing emulate bf16, Ampere has units for it
)
def test_bf16_is_taken_where_the_gpu_has_units_for_it(
    generation: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=generation))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    monkeypatch.setattr(torch.version, "hip", None)
    assert torch.cuda.is_bf16_supported()  # whatever the generation
    found = hardware(TrainerConfig(accelerator="auto"))
    assert (found["accelerator"], found["precision"]) == ("gpu", precision)
    assert hardware(TrainerConfig(accelerator="auto", precision="32-true"))["precision"] == "32-true"
    assert hardware(TrainerConfig(accelerator="cpu"))["precision"] == "32-true"


REFUSED = {
    "trainer.accelerator: expected auto, cpu or gpu, received 'tpu'; try auto": {"accelerator": "tpu"},
    "trainer.accelerator: expected a GPU that torch can use, received none; try cpu": {"accelerator": "gpu"},
    "trainer.strategy: expected GPUs that torch can use with fsdp, which shares weights out over them, received none; "
    "try trainer=ddp, which trains on CPUs too": {"strategy": "fsdp"},
    "trainer.precision: expected auto, 32-true, bf16-mixed, 16-mixed, received 'fp16'; try auto": {"precision": "fp16"},
    "trainer.precision: expected 32-true or bf16-mixed on a CPU, received '16-mixed'; try auto": {
        "precision": "16-mixed"
    },
}


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("said", REFUSED)
def test_hardware_that_is_not_there_is_told(said: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        hardware(TrainerConfig(**REFUSED[said]))


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_everything_is_computed_here() -> None:
    assert hardware(TrainerConfig(devices=2, num_nodes=3, precision="bf16-mixed")) == {
        "accelerator": "cpu", "devices": 2, "num_nodes": 3, "precision": "bf16-mixed",
    }  # fmt: skip
    assert device_type(TrainerConfig(accelerator="gpu")) == "cpu"
    assert precisions(TrainerConfig()) == {"train": "32-true", "evaluation": "32-true"}
    assert precisions(TrainerConfig(precision="bf16-mixed")) == {"train": "bf16-mixed", "evaluation": "32-true"}


def test_processes_share_the_work_as_the_schedule_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert strategy(TrainerConfig(), 1) == "auto"
    assert strategy(TrainerConfig(strategy="ddp_spawn", devices=2), 1) == "ddp_spawn"
    for made in ("DDPStrategy", "FSDPStrategy"):
        monkeypatch.setattr(f"graft.finetune.hardware.{made}", lambda made=made, **settings: (made, settings))
    for changes in ({"devices": 2}, {"num_nodes": 2}, {"devices": 2, "strategy": "ddp"}):
        for states, unused in ((1, False), (2, True)):
            expected = ("DDPStrategy", {"find_unused_parameters": unused})
            assert strategy(TrainerConfig(**changes), states) == expected
    made, settings = strategy(TrainerConfig(strategy="fsdp"), 1)
    whole = settings.pop("mixed_precision")
    assert (made, settings) == ("FSDPStrategy", {"use_orig_params": True, "state_dict_type": "full"})
    assert (whole.param_dtype, whole.reduce_dtype, whole.buffer_dtype) == (torch.float32,) * 3


def test_lightning_is_quiet_within_and_speaks_again_behind() -> None:
    names = ("lightning.pytorch", "lightning.fabric")
    before = {name: logging.getLogger(name).level for name in names}
    with quiet_lightning():
        assert {logging.getLogger(name).level for name in names} == {logging.WARNING}
        warnings.warn("The 'val_dataloader' does not have many workers which may be", stacklevel=1)
        warnings.warn("Found 3 module(s) in eval mode at the start of training.", stacklevel=1)
        with pytest.raises(UserWarning, match="something else"):
            warnings.warn("something else", stacklevel=1)
    assert {name: logging.getLogger(name).level for name in names} == before


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("before", ["1", None])
def test_whether_there_is_a_gpu_is_asked_once(gpu: bool, before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.delenv(VARIABLE, raising=False)
    if before is not None:
        monkeypatch.setenv(VARIABLE, before)
    with known_to_be_none():
        assert os.environ.get(VARIABLE) == ("0" if before and not gpu else before)
    assert os.environ.get(VARIABLE) == before
