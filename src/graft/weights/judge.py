"""Evaluates networks on a part of the images. Choices are made on the validation part only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from graft.config.choices import AUTO, TaskKind
from graft.config.faults import InputError
from graft.config.schema import AugmentConfig, DataConfig
from graft.data.datamodule import DataModule
from graft.data.datasets import load_table
from graft.data.loader import label_tensor
from graft.results.left_out import Truth
from graft.results.model import OpenedModel
from graft.results.resampling import figures
from graft.system.machine import full_float32
from graft.tasks.evaluate import Floats

BATCH = 32
"""The batch size if the run's was `auto`, which depends on the device's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartAnswers:
    """A network's answers to the images of a part, in the part's order."""

    answers_NK: Floats
    truth: Truth
    """Classes [N], or labels or numbers [N, K]."""
    loss: float
    """The task's loss, averaged over the images."""
    logits: Tensor
    """The network's outputs [N, K], from which the answers are computed."""
    task: TaskKind

    def figures(self) -> dict[str, float]:
        """The task's figures by name, and `loss`."""
        return {**figures(self.answers_NK, self.truth, self.task), "loss": self.loss}


class Judge:
    """Evaluates networks that share preprocessing, task and split of the images.

    Args:
        data: the images and their split.
        opened: one of the networks.
        head: path of the module in which alone the networks differ, if there is one. Its input is then computed only
            once.
        bn_images: number of training images for the batch-norm statistics; None: all of them.
    """

    def __init__(
        self,
        data: DataConfig,
        opened: OpenedModel,
        *,
        seed: int,
        device: torch.device,
        head: str | None = None,
        bn_images: int | None = None,
    ) -> None:
        self.table = load_table(data)
        data = replace(
            data,
            num_workers=0 if data.num_workers is None else data.num_workers,
            batch_size=BATCH if data.batch_size == AUTO else max(2, data.batch_size),  # batch-norm needs 2 or more
        )
        self.module = DataModule(
            self.table, data, AugmentConfig(name="none"), opened.preprocess.settings, seed=seed,
            fewest=min(2, len(self.table.train)),
        )  # fmt: skip
        self.task = opened.task.with_temperature(1.0)  # a temperature is valid only for the network it was fitted to
        self.device, self.head, self.bn_images = device, head, bn_images
        self._entering: dict[str, list[Tensor]] = {}
        """The head's inputs for each part, by batch."""

    def check_part(self, part: str, option: str) -> None:
        """Raises InputError if an option asks for a part that the data do not have."""
        if not self.table.part(part):
            raise InputError(f"{option}: expected data with a {part} part, received data without one; try without it")

    def predict(self, network: nn.Module, part: str = "val") -> PartAnswers:
        """The network's answers to the images of a part. Moves the network to the device, in eval mode."""
        network.to(self.device).eval()
        truth = label_tensor(self.table.labels_of(part))
        if self.head is not None and part in self._entering:
            with torch.inference_mode(), full_float32(self.device):
                head = network.get_submodule(self.head)
                logits = torch.cat([head(batch) for batch in self._entering[part]])
        else:
            logits = self._whole(network, part)
        outputs = logits.float().cpu()
        return PartAnswers(
            answers_NK=self.task.answers(outputs).double().numpy(),
            truth=truth.numpy(),
            loss=float(self.task.loss(outputs, truth)),
            logits=outputs,
            task=self.task.kind,
        )

    @torch.inference_mode()
    def _whole(self, network: nn.Module, part: str) -> Tensor:
        """The logits of the whole network. Stores the head's inputs if the head's outputs are the logits."""
        entering: list[Tensor] = []
        left: list[Tensor] = []

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            entering.append(inputs[0])
            left.append(output)

        hook = network.get_submodule(self.head).register_forward_hook(keep) if self.head else None
        try:
            with full_float32(self.device):
                logits = [network(batch["image"].to(self.device)) for batch in self.module.loader(part)]
        finally:
            if hook:
                hook.remove()
        if self.head and len(left) == len(logits) and all(map(torch.equal, left, logits)):
            self._entering[part] = entering
        else:
            self.head = None
        return torch.cat(logits)

    def training_images(self) -> Iterator[Tensor]:
        """Shuffled batches [B, C, H, W] of training images, without augmentation."""
        loader = self.module.loader("train", train=True)
        size = loader.batch_size
        batches = len(loader) if self.bn_images is None else max(1, self.bn_images // size)
        for batch in islice(loader, batches):
            yield batch["image"].to(self.device)
