"""How batches are shared between processes, so that each process has enough images in every batch."""

from __future__ import annotations

from collections.abc import Sequence

from graft.config.faults import InputError
from graft.config.schema import FreezeBatchNorm
from graft.data.sampling import check_batches
from graft.data.table import Table
from graft.finetune.batch_norms import norm_that_needs_two
from graft.finetune.freeze import Frozen
from graft.models.network import Network


def fewest_images(
    table: Table, network: Network, states: Sequence[Frozen], freeze_bn: FreezeBatchNorm, *, batch: int, processes: int
) -> int:
    """The smallest number of images per process in a training batch: 2 if a batch-norm has no variance on a single
    image.

    Args:
        states: the freeze states that the training can reach.
        batch: images per batch and process.

    Raises:
        InputError: there are too few images for that, or for the number of processes.
    """
    for part in ("val", "test"):
        images = len(table.part(part))
        if 0 < images < processes:
            raise InputError(
                f"trainer.devices: expected no more processes than any part has images, received {processes} processes"
                f" for {images} {part} images; try trainer.devices=1"
            )
    norm = norm_that_needs_two(network, states, freeze_bn)
    why = f"{norm} is a batch-norm that trains on one value a channel of an image" if norm else ""
    fewest = 2 if norm else 1
    check_batches(len(table.train), batch, world=processes, fewest=fewest, why=why)
    return fewest
