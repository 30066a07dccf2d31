"""The methods of a run that take part in its training steps, combined into one object for the module."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from graft.config.choices import LossKind
from graft.config.schema import ClassWeights, Config, MethodConfig
from graft.finetune.methods.average import Average
from graft.finetune.methods.distill import Distillation
from graft.finetune.methods.l2_sp import Anchors
from graft.finetune.route import Route


class Methods:
    """Additions to the loss, and values stored beside the weights.

    Args:
        anchored: the parameters that method.l2_sp pulls back to their current values.
        teacher: the complete frozen donor, for method.distill.
        head: path of the last layer.
    """

    def __init__(
        self,
        config: MethodConfig,
        network: nn.Module,
        *,
        anchored: Collection[str] = (),
        teacher: nn.Module | None = None,
        head: str = "",
    ) -> None:
        self.config = config
        self.network = network
        self.anchors = Anchors(network, anchored, config.l2_sp) if config.l2_sp else None
        self.distillation: Distillation | None = None
        if config.distill:
            assert teacher is not None, "the run builds the donor's own network"
            self.distillation = Distillation(network, teacher, head, config.distill, config.distill_temperature)
        self.average: Average | None = None

    def lay_out(self, route: Route, still: Collection[str]) -> None:
        """Called once before training.

        Args:
            route: how batches pass through the network.
            still: tensors that never change.
        """
        if self.config.ema is not None:
            self.average = Average(route, self.config.ema, still)

    def to(self, device: torch.device, *, channels_last: bool) -> None:
        if self.anchors is not None:
            self.anchors.to(device)
        for each in (self.average, self.distillation):
            if each is not None:
                each.to(device, torch.channels_last if channels_last else torch.contiguous_format)

    def listening(self) -> AbstractContextManager[None]:
        """The context of a step's forward pass."""
        return nullcontext() if self.distillation is None else self.distillation.listening()

    def with_batch(self, loss: Tensor, batch: Mapping[str, Tensor], weights: Tensor | None) -> Tensor:
        """The loss plus terms that are means over the images that have just passed through the network.

        Args:
            weights: weight of each image [B]; None: all the same.
        """
        return loss if self.distillation is None else loss + self.distillation.penalty(batch["image"], weights)

    def with_weights(self, loss: Tensor) -> Tensor:
        """The loss plus terms that do not depend on the images."""
        return loss if self.anchors is None else loss + self.anchors()

    def after_step(self) -> None:
        if self.average is not None:
            self.average.update(self.network)

    def settings(self) -> dict[str, Any]:
        """The settings that a resumed run must share, each with a name that users recognise."""
        settings: dict[str, Any] = {}
        if self.anchors is not None:
            settings |= {
                "method.l2_sp": self.config.l2_sp,
                "weights that method.l2_sp starts from": self.anchors.identity,
            }
        if self.distillation is not None:
            distill = [self.config.distill, self.config.distill_temperature]
            settings |= {"method.distill": distill, "donor of method.distill": self.distillation.identity}
        return {**settings, "method.ema": self.config.ema}

    def state(self) -> dict[str, Any]:
        return {} if self.average is None else {"average": self.average.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        if self.average is not None:
            self.average.restore(state["average"])

    def take(self, state: Mapping[str, Any]) -> None:
        """Restores a checkpoint's state for good: the network gets the weights that the checkpoint was evaluated
        with."""
        self.restore(state)
        if self.average is not None:
            self.average.write_to(self.network)


def methods_in_words(config: Config) -> tuple[str, ...]:
    """One line for each active method, for the plan and the report."""
    method, loss, data, augment, backbone = config.method, config.loss, config.data, config.augment, config.backbone
    lines = {
        f"L2-SP {method.l2_sp:g}: the donor's weights are drawn back to where they were": method.l2_sp,
        f"running mean of the weights, decay {method.ema or 0:g}: evaluated, chosen by and exported": method.ema,
        f"distillation {method.distill:g} at temperature {method.distill_temperature:g}: the donor's own outputs are to"
        " stay; the donor runs beside the network, its head frozen on the network's features": method.distill,
        "BitFit: of the backbone, biases and norms alone": method.bitfit,
        f"LoRA of rank {method.lora or 0} beside the backbone's frozen weights, merged on export": method.lora,
        f"mixup, share from Beta({augment.mixup:g}, {augment.mixup:g}), one a {augment.mix_per}": augment.mixup,
        f"cutmix, share from Beta({augment.cutmix:g}, {augment.cutmix:g}), one a {augment.mix_per}": augment.cutmix,
        f"label smoothing {loss.label_smoothing:g}": loss.label_smoothing,
        f"loss {loss.kind.value}: evaluation uses the task's own": loss.kind is not LossKind.task,
        f"class weights {loss.weights}": loss.weights,
        "class weights: each class weighs the same in sum": loss.class_weights is ClassWeights.balanced,
        f"stochastic depth {backbone.drop_path or 0:g} in the backbone's blocks that train": backbone.drop_path,
        f"dropout {backbone.drop_rate or 0:g} of the backbone": backbone.drop_rate,
        "balanced sampling: each class is drawn equally often": data.balanced,
    }
    return tuple(line for line, is_on in lines.items() if is_on)
