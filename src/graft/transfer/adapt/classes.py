"""Rows of a head, by class name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from graft.transfer.adapt.rule import Adapter, Misfit, Shape, Site, replaced


@dataclass(frozen=True, slots=True)
class ClassRows(Adapter):
    """The donor's rows for the classes that both sides have, and new rows for the others, in weight and bias."""

    donor_classes: tuple[str, ...] = ()
    """The donor's classes, in the order of its rows."""
    classes: tuple[str, ...] = ()
    """The target's classes, in the order of its rows."""

    name: ClassVar[str] = "class_rows"
    exact: ClassVar[bool] = True
    effect: ClassVar[str] = "for the logits of the classes kept"

    def __post_init__(self) -> None:
        for field, names in (("donor_classes", self.donor_classes), ("classes", self.classes)):
            _check_distinct(field, names)
        if not set(self.donor_classes) & set(self.classes):
            raise Misfit(
                f"class_rows: donor and target have no class in common "
                f"({_some(self.donor_classes)} against {_some(self.classes)}); try skip for a new head"
            )

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        if not donor:
            return None
        for whose, size, names in (("donor", donor, self.donor_classes), ("target", site.shape, self.classes)):
            if size[0] != len(names):
                raise Misfit(f"class_rows: the {whose} has {size[0]} rows and {len(names)} class names")
        return replaced(donor, 0, len(self.classes))

    def formula(self, donor: Shape, site: Site) -> str:
        shared = sum(name in set(self.donor_classes) for name in self.classes)
        return f"W'[j] = W[index(class j)] for {shared} classes, {len(self.classes) - shared} rows fresh"

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        rows = {name: index for index, name in enumerate(self.donor_classes)}
        result = site.fresh((len(self.classes), *value.shape[1:]), value.dtype).to(value.device)
        places = [index for index, name in enumerate(self.classes) if name in rows]
        result[places] = value[torch.tensor([rows[self.classes[index]] for index in places], device=value.device)]
        return result


def _check_distinct(field: str, names: Sequence[str]) -> None:
    if not names:
        raise Misfit(f"class_rows: expected {field}, the class names in the order of the rows")
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise Misfit(f"class_rows: {field} names {', '.join(map(repr, doubled[:5]))} more than once")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
