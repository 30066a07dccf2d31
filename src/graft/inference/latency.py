"""Measures how long the exported network takes for one image."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from graft.inference.load import open_model
from graft.system.machine import full_float32

WARM_UP = 5
REPEATS = 50
FEWEST = 5
PATIENCE = 10.0  # seconds, after which fewer repeats are enough


def latency_ms(folder: Path | str, *, device: str) -> float:
    """Latency in milliseconds for a batch of one image: the median of repeats, in float32, with torch's current number
    of threads.

    It measures the model folder after reading it back, because the network in memory after training (with a cut,
    adapters, hooks) is not the one that people will run. Decoding and resizing of the image are not included.
    """
    opened = open_model(folder, import_code=True)  # this run wrote it
    settings = opened.preprocess.settings
    module = opened.module.to(device)
    shape = (1, len(settings.mean), settings.image_size, settings.image_size)
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)

    def seconds() -> float:
        began = time.perf_counter()
        module(image)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        return time.perf_counter() - began

    with torch.inference_mode(), full_float32(device):
        for _ in range(WARM_UP):
            seconds()
        times: list[float] = []
        while len(times) < REPEATS and (len(times) < FEWEST or sum(times) < PATIENCE):
            times.append(seconds())
    return 1000 * statistics.median(times)
