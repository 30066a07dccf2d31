"""What a network is worth on a part of the images; choices are made on the validation part alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from graft.config.schema import AugmentConfig, DataConfig
from graft.data.datamodule import DataModule
from graft.data.datasets import load_table
from graft.models.preprocess import Preprocess
from graft.results.evaluate import Floats, Ints, accuracy, auroc, macro_f1

Said = tuple[Floats, Ints]
"""Probabilities [N, K] and true classes [N]."""


class Judge:
    """Evaluates networks of one preprocessing on one division of images.

    Args:
        head: module path behind which alone the networks differ, if there is one: what enters it is then computed once
            for all of them.
        bn_images: so many training images give the batch-norm statistics; None: all of them.
    """

    def __init__(
        self,
        data: DataConfig,
        preprocess: Preprocess,
        *,
        seed: int,
        device: torch.device,
        head: str | None = None,
        bn_images: int | None = None,
    ) -> None:
        self.table = load_table(data)
        data = replace(data, num_workers=0 if data.num_workers is None else data.num_workers)
        self.module = DataModule(self.table, data, AugmentConfig(name="none"), preprocess, seed=seed)
        self.device, self.head, self.bn_images = device, head, bn_images
        self._entering: dict[str, list[Tensor]] = {}
        """Part to what enters the head, batch by batch."""

    def said(self, network: nn.Module, part: str = "val") -> Said:
        """What the network says of each image, in the part's order."""
        network.to(self.device).eval()
        labels_N = np.array([sample.label for sample in self.table.part(part)], dtype=np.int64)
        if self.head is not None and part in self._entering:
            with torch.inference_mode():
                head = network.get_submodule(self.head)
                logits = torch.cat([head(batch) for batch in self._entering[part]])
        else:
            logits = self._whole(network, part)
        return logits.float().softmax(1).cpu().double().numpy(), labels_N

    @torch.inference_mode()
    def _whole(self, network: nn.Module, part: str) -> Tensor:
        """Logits by the whole network; what entered the head is kept where nothing follows the head."""
        entering: list[Tensor] = []
        left: list[Tensor] = []

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            entering.append(inputs[0])
            left.append(output)

        hook = network.get_submodule(self.head).register_forward_hook(keep) if self.head else None
        try:
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
        """Batches in mixed order, as evaluation sees images."""
        loader = self.module.loader("train", train=True)
        size = loader.batch_size
        batches = len(loader) if self.bn_images is None else max(1, self.bn_images // size)
        for batch in islice(loader, batches):
            yield batch["image"].to(self.device)


def figures(said: Said) -> dict[str, float]:
    """accuracy, f1, auroc and loss: cross-entropy against the true classes."""
    probabilities_NK, targets_N = said
    of_truth_N = probabilities_NK[np.arange(len(targets_N)), targets_N]
    return {
        "accuracy": accuracy(probabilities_NK, targets_N),
        "f1": macro_f1(probabilities_NK, targets_N),
        "auroc": auroc(probabilities_NK, targets_N),
        "loss": float(-np.log(np.maximum(of_truth_N, 1e-12)).mean()),
    }
