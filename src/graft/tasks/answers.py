"""The prediction for one file, and its form as a row in a terminal table, as a CSV row, and as a JSON line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graft.config.choices import TaskKind
from graft.config.faults import InputError

JOINT = ";"  # between the names of an image's labels
HALF = 0.5  # the probability above which a label is named, unless another is asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The prediction for one file, or the reason why there is none."""

    file: str
    top: tuple[tuple[str, float], ...] = ()
    """What is named of it, with its probability, best first: its likeliest classes, or its labels."""
    values: tuple[float, ...] = ()
    """Probabilities of every class or label, or the numbers, in the model's order."""
    error: str | None = None


class Form(ABC):
    """The form of one task's predictions.

    Args:
        classes: names of the classes, labels or numbers.
        top: number of most likely classes to return; None: one.
        threshold: labels with a probability above it are returned; None: one half.

    Raises:
        InputError: an option that this task does not have.
    """

    takes: tuple[str, ...] = ()
    """Which of the two choices have an effect."""
    kind: TaskKind

    decision: tuple[int, float] | None = None
    """Of two classes: the one that is looked for, and the probability from which it is named; None: the likeliest."""

    def __init__(self, classes: Sequence[str], *, top: int | None = None, threshold: float | None = None) -> None:
        for flag, value in (("--top", top), ("--threshold", threshold)):
            if value is not None and flag not in self.takes:
                raise InputError(
                    f"{flag}: expected nothing for a model of data.task={self.kind.value}, where it has no effect,"
                    f" received {value:g}; try without it"
                )
        self.classes = list(classes)
        self.top = min(top or 1, len(self.classes))
        self.threshold = HALF if threshold is None else threshold

    def answer(self, file: str, values: Sequence[float]) -> Answer:
        order = sorted(range(len(self.classes)), key=lambda k: -values[k])
        named = tuple((self.classes[k], values[k]) for k in self.named(order, values))
        return Answer(file=file, top=named, values=tuple(values))

    @abstractmethod
    def named(self, order: Sequence[int], values: Sequence[float]) -> Sequence[int]:
        """The positions of the classes to return, from the most likely down."""

    @abstractmethod
    def to_dict(self, answer: Answer) -> dict[str, Any]:
        """The JSON line, without the file."""

    @abstractmethod
    def header(self) -> list[str]:
        """The CSV columns between file and error."""

    @abstractmethod
    def cells(self, answer: Answer) -> list[str]: ...

    @abstractmethod
    def columns(self) -> dict[str, bool]:
        """The terminal columns after the file, and whether they contain numbers."""

    @abstractmethod
    def row(self, answer: Answer) -> list[str]: ...


class OneClass(Form):
    takes = ("--top",)
    kind = TaskKind.single_label

    def named(self, order: Sequence[int], values: Sequence[float]) -> Sequence[int]:
        if self.decision is not None:
            positive, probability = self.decision
            order = sorted(order, key=lambda k: (k == positive) != (values[positive] >= probability))
        return order[: self.top]

    def to_dict(self, answer: Answer) -> dict[str, Any]:
        label, probability = answer.top[0]
        return {
            "class": label,
            "probability": probability,
            "top": [{"class": name, "probability": share} for name, share in answer.top],
            "probabilities": dict(zip(self.classes, answer.values, strict=True)),
        }

    def header(self) -> list[str]:
        further = [name for place in range(2, self.top + 1) for name in (f"class_{place}", f"probability_{place}")]
        return ["class", "probability", *further]

    def cells(self, answer: Answer) -> list[str]:
        return [cell for label, share in answer.top for cell in (label, f"{share:.6f}")]

    def columns(self) -> dict[str, bool]:
        return {"class": False, "probability": True, **({"then": False} if self.top > 1 else {})}

    def row(self, answer: Answer) -> list[str]:
        (label, probability), *others = answer.top
        then = "\n".join(f"{name} {share:.4f}" for name, share in others)
        return [label, f"{probability:.4f}", *([then] if self.top > 1 else [])]


class SeveralClasses(Form):
    takes = ("--threshold",)
    kind = TaskKind.multi_label

    def named(self, order: Sequence[int], values: Sequence[float]) -> Sequence[int]:
        return [k for k in order if values[k] > self.threshold]

    def to_dict(self, answer: Answer) -> dict[str, Any]:
        return {
            "labels": [{"label": name, "probability": share} for name, share in answer.top],
            "probabilities": dict(zip(self.classes, answer.values, strict=True)),
        }

    def header(self) -> list[str]:
        return ["labels", *(f"probability_{name}" for name in self.classes)]

    def cells(self, answer: Answer) -> list[str]:
        return [JOINT.join(name for name, _ in answer.top), *(f"{value:.6f}" for value in answer.values)]

    def columns(self) -> dict[str, bool]:
        return {"labels": False, "probabilities": True}

    def row(self, answer: Answer) -> list[str]:
        if not answer.top:
            likeliest = max(range(len(self.classes)), key=lambda k: answer.values[k])
            return ["none", f"{self.classes[likeliest]} {answer.values[likeliest]:.4f}"]
        return ["\n".join(name for name, _ in answer.top), "\n".join(f"{share:.4f}" for _, share in answer.top)]


class Numbers(Form):
    kind = TaskKind.regression

    def named(self, order: Sequence[int], values: Sequence[float]) -> Sequence[int]:
        return []

    def to_dict(self, answer: Answer) -> dict[str, Any]:
        return {"values": dict(zip(self.classes, answer.values, strict=True))}

    def header(self) -> list[str]:
        return self.classes

    def cells(self, answer: Answer) -> list[str]:
        return [f"{value:.9g}" for value in answer.values]

    def columns(self) -> dict[str, bool]:
        return dict.fromkeys(self.classes, True)

    def row(self, answer: Answer) -> list[str]:
        return [f"{value:.5g}" for value in answer.values]


FORMS: Mapping[TaskKind, type[Form]] = {form.kind: form for form in (OneClass, SeveralClasses, Numbers)}
