"""What all processes of a training agree on at a batch's end."""

from __future__ import annotations

from typing import cast

import torch
from torch import distributed


class Agreement:
    """Compares small numbers of all processes; made and asked by each of them at the same places.

    Over gloo, so that no GPU is waited for.
    """

    def __init__(self) -> None:
        several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        self._group = cast("distributed.ProcessGroup", distributed.new_group(backend="gloo")) if several else None

    def highest(self, number: int) -> int:
        if self._group is None:
            return number
        shared = torch.tensor(number)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX, group=self._group)
        return int(shared)
