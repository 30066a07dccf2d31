"""The precision that trainer.precision=auto comes to, on GPUs that this machine need not have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from graft.config.schema import TrainerConfig
from graft.finetune.hardware import hardware


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
