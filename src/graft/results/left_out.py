"""Outputs that an averaged figure leaves out, because it is undefined for them on a part's labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.config.choices import TaskKind
from graft.config.figures import FIGURES
from graft.tasks.evaluate import Bools, Ints

Truth = NDArray[Any]
"""Classes [N], or labels or numbers [N, K]."""
LeftOut = dict[str, list[str]]
"""part/figure to the names of the outputs that its mean leaves out. A figure that leaves out all is undefined."""
MOST = 6  # names that a sentence lists


def left_out(part: str, truth: Truth, names: Sequence[str], task: TaskKind) -> LeftOut:
    """The figures of a part that leave outputs out, and those outputs.

    Args:
        truth: the part's labels.
        names: the names of the classes, labels or numbers.

    Example:
        >>> import numpy as np
        >>> left_out("val", np.array([0, 1, 1]), ["cat", "dog", "owl"], TaskKind.single_label)["val/f1"]
        ['owl']
    """
    masks = {name: mask_of(truth, len(names)) for name, mask_of in MASKS[task].items()} if len(truth) else {}
    return {
        f"{part}/{name}": [output for output, out in zip(names, mask_K, strict=True) if out]
        for name, mask_K in masks.items()
        if mask_K.any()
    }


def undefined(part: str, truth: Truth, names: Sequence[str], task: TaskKind) -> list[str]:
    """The figures that are undefined on a part, as part/figure."""
    return [figure for figure, out in left_out(part, truth, names, task).items() if len(out) == len(names)]


def in_words(out: Mapping[str, Sequence[str]], task: TaskKind) -> list[str]:
    """One line per reason, such as "val has no image of c: left out of macro-F1, AUROC"."""
    lines: list[str] = []
    for part in dict.fromkeys(figure.partition("/")[0] for figure in out):
        absent = out.get(f"{part}/f1", ())
        alike: dict[tuple[bool, tuple[str, ...]], list[str]] = {}
        for figure in FIGURES[task]:
            names = out.get(f"{part}/{figure.name}", ())
            for is_absent in (True, False):
                if some := tuple(name for name in names if (name in absent) is is_absent):
                    alike.setdefault((is_absent, some), []).append(figure.title)
        for (is_absent, names), titles in alike.items():
            shown = ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")
            reason = REASONS[task][0 if is_absent else 1].format(part=part, names=shown)
            lines.append(f"{reason}: left out of {', '.join(titles)}")
    return lines


def _images(truth: Truth, outputs: int) -> Ints:
    """The number of images that have each output: [K]."""
    return np.bincount(truth, minlength=outputs) if truth.ndim == 1 else (truth > 0).sum(0)


def _absent(truth: Truth, outputs: int) -> Bools:
    return _images(truth, outputs) == 0


def _one_sided(truth: Truth, outputs: int) -> Bools:
    return np.isin(_images(truth, outputs), (0, len(truth)))


def _all_absent(truth: Truth, outputs: int) -> Bools:
    return np.full(outputs, not _images(truth, outputs).any())


def _constant(truth: Truth, outputs: int) -> Bools:
    return ~(truth != truth[:1]).any(0)


MASKS: Mapping[TaskKind, Mapping[str, Callable[[Truth, int], Bools]]] = {
    TaskKind.single_label: {"f1": _absent, "auroc": _one_sided},
    TaskKind.multi_label: {"map": _one_sided, "f1": _absent, "f1_micro": _all_absent, "auroc": _one_sided},
    TaskKind.regression: {"r2": _constant},
}
"""For each figure, the function that marks the outputs that it leaves out: bool [K]."""
REASONS = {
    TaskKind.single_label: ("{part} has no image of {names}", "{part} has no image that is not of {names}"),
    TaskKind.multi_label: ("{part} has no image with {names}", "{part} has no image without {names}"),
    TaskKind.regression: ("", "{names} does not vary in {part}"),
}
"""The reason for outputs that no image has, and the reason for the others that are left out."""
