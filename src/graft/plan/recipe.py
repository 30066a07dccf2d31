"""What `auto` stands for in a recipe: a number of epochs that follows from the training images."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from graft.config.choices import AUTO
from graft.config.schema import Config

STEPS = 320
"""Optimiser steps that fine-tuning from a solved head is given."""
FEWEST_EPOCHS, MOST_EPOCHS = 4, 30


def with_recipe(config: Config, images: int) -> tuple[Config, str]:
    """The config with a number for `trainer.max_epochs=auto`, and a remark that says it.

    Args:
        images: number of training images.
    """
    trainer = config.trainer
    if trainer.max_epochs != AUTO:
        return config, ""
    steps = ceil(images / (config.data.images * trainer.accumulate * trainer.devices * trainer.num_nodes))
    epochs = min(max(ceil(STEPS / steps), FEWEST_EPOCHS), MOST_EPOCHS)
    remark = f"trainer.max_epochs=auto: {epochs} epochs of {steps} steps"
    return replace(config, trainer=replace(trainer, max_epochs=epochs)), remark
