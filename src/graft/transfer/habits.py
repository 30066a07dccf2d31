"""How a network computes in layers without tensors, as far as its modules show: no tensor's name or shape reveals
it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from torch import nn


class Habit(Enum):
    """A property in which two networks with equal tensors may differ."""

    border = "what an average pooling makes of the border"
    padding = "how a window with a stride is padded"
    bottleneck = "which convolution of a bottleneck strides"
    leaky_slope = "the slope of LeakyReLU"
    elu_alpha = "alpha of ELU"
    gelu = "how GELU is computed"


Habits = Mapping[Habit, frozenset[str]]
"""The answers that a network's modules give. A question without an answer is missing."""

TORCH_DEFAULTS = {Habit.leaky_slope: "0.01", Habit.elu_alpha: "1", Habit.gelu: "exact"}
"""What a network most likely does if no module shows it, because it calls a function instead."""
SAME, EVEN = "TensorFlow's 'same'", "alike on both sides"
LEFT_OUT, COUNTED = "left out", "counted as zeros"
FIRST, LATER = "the first 1×1", "a later one"
EXACT, TANH = "exact", "by tanh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A reason against a transfer: the values fit, but the receiving network may compute something else with them."""

    reason: str
    remedy: str
    expected: str = "weights that compute in torch what they compute in Keras"
    needs: Mapping[Habit, frozenset[str]] | None = None
    """How the network must be built to settle the doubt; None if no module can settle it."""
    accepted: str = ""
    """The word by which the user accepted it; empty if not accepted."""

    def settled_by(self, habits: Habits) -> bool:
        """Whether a network behaves as required, and in no other way."""
        return self.needs is not None and all(
            habits.get(habit, frozenset({TORCH_DEFAULTS.get(habit, "")})) == answers
            for habit, answers in self.needs.items()
        )


def habits_of(modules: Iterable[nn.Module]) -> Habits:
    """The habits that these modules show."""
    habits: dict[Habit, set[str]] = defaultdict(set)
    for module in modules:
        for habit, answer in _answers(module):
            habits[habit].add(answer)
    return {habit: frozenset(answers) for habit, answers in habits.items()}


def _answers(module: nn.Module) -> Iterator[tuple[Habit, str]]:
    match module:
        case nn.LeakyReLU():
            yield Habit.leaky_slope, f"{module.negative_slope:g}"
        case nn.ELU():
            yield Habit.elu_alpha, f"{module.alpha:g}"
        case nn.GELU():
            yield Habit.gelu, TANH if module.approximate == "tanh" else EXACT
        case nn.AvgPool1d() | nn.AvgPool2d() | nn.AvgPool3d() if _largest(module.padding) > 0:
            yield Habit.border, COUNTED if module.count_include_pad else LEFT_OUT
        case _:
            pass
    if getattr(module, "leaves_border_out", False):
        yield Habit.border, LEFT_OUT
    window, stride = getattr(module, "kernel_size", None), getattr(module, "stride", None)
    if _largest(window) > 1 and _largest(stride) > 1 and not isinstance(module, nn.AdaptiveAvgPool2d):
        same = type(module).__name__.endswith("Same") or getattr(module, "padding", None) == "same"
        padded = same or _largest(getattr(module, "padding", 0)) > 0
        if padded:
            yield Habit.padding, SAME if same else EVEN
    yield from _bottleneck(module)


def _bottleneck(module: nn.Module) -> Iterator[tuple[Habit, str]]:
    """The habit of a block with 1×1 and larger convolutions: which of them has the stride."""
    convolutions = [child for child in module.children() if isinstance(child, nn.Conv2d)]
    striding = [child for child in convolutions if _largest(child.stride) > 1]
    if len({_largest(child.kernel_size) > 1 for child in convolutions}) == 2 and striding:
        first = striding[0] is convolutions[0] and _largest(striding[0].kernel_size) == 1
        yield Habit.bottleneck, FIRST if first else LATER


def _largest(value: object) -> int:
    sides = value if isinstance(value, tuple | list) else (value,)
    return max((side for side in sides if isinstance(side, int)), default=0)
