"""Ways of fine-tuning that the field uses, each one key and off by default."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class MethodConfig:
    """How fine-tuning is held back or steadied, beyond what is frozen."""

    l2_sp: float = 0.0
    """Pulls the donor's weights back to their starting point: adds this/2 times the squared distance to the loss.
    It takes weight decay's place there (L2-SP, Li et al. 2018)."""
    ema: float | None = None
    """Decay, at each step, of a running mean of the weights, which is what is evaluated and exported (0.999, say)."""
    distill: float = 0.0
    """Weight of keeping the donor's own outputs on the new images (learning without forgetting, Li & Hoiem 2016).
    The donor is kept beside the network, and its head, frozen, on the network's features: a second forward pass a step.
    """
    distill_temperature: float = 2.0
    """Softens both outputs before they are compared."""
    bitfit: bool = False
    """Of what is not frozen, only the backbone's biases and norms train, and the head (BitFit, Zaken et al. 2022)."""
    lora: int | None = None
    """Rank of what trains beside each of the backbone's frozen weights (LoRA, Hu et al. 2022); merged on export."""
    lora_alpha: float | None = None
    """The product of LoRA's matrices counts this over the rank. Null: once."""
    lora_targets: list[str] = field(default_factory=list)
    """Globs of the layers that LoRA adds to. Empty: every linear layer and convolution that can have one."""
