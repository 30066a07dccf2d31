"""Torch is told that there is no GPU for as long as a training lasts, and only where there is none."""

import os
from contextlib import suppress

import torch

from graft.finetune.hardware import VARIABLE, known_to_be_none


def test_without_a_gpu_the_search_is_put_off_and_comes_back(monkeypatch):
    monkeypatch.setenv(VARIABLE, "1")
    expected = "1" if torch.cuda.is_available() else "0"
    with suppress(KeyboardInterrupt), known_to_be_none():
        assert os.environ[VARIABLE] == expected
        raise KeyboardInterrupt
    assert os.environ[VARIABLE] == "1"


def test_what_nobody_asked_for_is_not_set(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with known_to_be_none():
        assert VARIABLE not in os.environ
