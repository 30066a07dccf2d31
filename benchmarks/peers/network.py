"""A task's model as its library builds it, with the donor's weights and a new head."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.task import Task


def network_of(task: Task, classes: int) -> nn.Module:
    """What does not train requires no gradient; the head is the library's own."""
    torch.manual_seed(task.seed)
    if task.library == "timm":
        import timm

        model = timm.create_model(task.model, num_classes=classes)
    else:
        from torchvision import models

        model = models.get_model(task.model, weights=None, num_classes=classes)
    donor = {name: value for name, value in load_file(task.donor).items() if not name.startswith(f"{task.head}.")}
    model.load_state_dict({**model.state_dict(), **donor}, strict=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = is_trained(task, name)
    return model


def is_trained(task: Task, name: str) -> bool:
    return not task.trains or any(name.startswith(f"{beginning}.") for beginning in task.trains)


def norms_held(model: nn.Module) -> None:
    """In training mode, but for the batch-norms that do not train."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(  # pyright: ignore[reportPrivateUsage]
            parameter.requires_grad for parameter in module.parameters()
        ):
            module.eval()
