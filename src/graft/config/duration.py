"""A length of training in whichever unit its author thinks: "2 epochs", "500 steps", "10%", 3 or 0.25."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from graft.config.faults import InputError


class Unit(Enum):
    epochs = "epochs"
    steps = "steps"
    fraction = "fraction"


FORMS = '"2 epochs", "500 steps", "10%", a whole number of epochs, or a fraction of the training between 0 and 1'
PATTERN = re.compile(r"(?P<amount>\d+(?:\.\d+)?)\s*(?P<unit>epochs?|ep|steps?|%)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Duration:
    """An amount of one unit; `steps` turns it into optimizer steps once the data's length is known."""

    amount: float
    unit: Unit
    text: str | float | None = field(default=None, compare=False, repr=False)
    """As its author wrote it."""

    @property
    def source(self) -> str | float:
        return str(self) if self.text is None else self.text

    def steps(self, steps_per_epoch: int, total_steps: int) -> int:
        """Optimizer steps, to the nearest one; an amount above zero is at least one step."""
        per_unit = {Unit.epochs: steps_per_epoch, Unit.steps: 1, Unit.fraction: total_steps}[self.unit]
        exact = self.amount * per_unit
        rounded = math.floor(exact + 0.5)
        return max(rounded, 1) if exact > 0 else 0

    def __str__(self) -> str:
        if self.unit is Unit.fraction:
            return f"{self.amount * 100:g}%"
        noun = self.unit.value[:-1] if self.amount == 1 else self.unit.value
        return f"{self.amount:g} {noun}"


def parse_duration(value: Any, key: str = "duration") -> Duration:
    """Reads what a person wrote.

    A bare whole number counts epochs, a bare number strictly between 0 and 1 is a share of the whole training;
    any other bare number (1.5, say) could mean either and is refused.

    Args:
        key: the config key the value came from, named in the error.

    Raises:
        InputError: the value is none of these forms, is negative, or is a share above 100 %.
    """
    if isinstance(value, str):
        match = PATTERN.fullmatch(value.strip())
        if match is None:
            raise _unreadable(value, key)
        unit = (match["unit"] or "").lower()
        if not unit:
            return _bare(float(match["amount"]), value, key)
        if unit == "%":
            return _checked(Duration(float(match["amount"]) / 100, Unit.fraction, value), value, key)
        counted = Unit.steps if unit[0] == "s" else Unit.epochs
        return _checked(Duration(float(match["amount"]), counted, value), value, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unreadable(value, key)
    return _bare(float(value), value, key)


def _bare(amount: float, value: Any, key: str) -> Duration:
    if amount.is_integer():
        return _checked(Duration(amount, Unit.epochs, value), value, key)
    return _checked(Duration(amount, Unit.fraction, value), value, key)


def _checked(duration: Duration, value: Any, key: str) -> Duration:
    amount, unit = duration.amount, duration.unit
    whole_steps = unit is not Unit.steps or amount.is_integer()
    if not math.isfinite(amount) or amount < 0 or not whole_steps or (unit is Unit.fraction and amount > 1):
        raise _unreadable(value, key)
    return duration


def _unreadable(value: Any, key: str) -> InputError:
    remedy = f"; try {value:g} epochs in quotes" if isinstance(value, float) and value > 1 else ""
    return InputError(f"{key}: expected {FORMS}, received {value!r}{remedy}")
