"""Which methods cannot be had beside which other options: rules of rules.py's kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from graft.config.choices import CacheKind, ClassWeights, DonorKind, UnfreezeKind
from graft.config.faults import Fault
from graft.config.keys import schema_keys

Values = Mapping[str, Any]


def _l2_sp(values: Values) -> Iterator[Fault]:
    if not values["method.l2_sp"]:
        return
    reasons = {
        "0 with donor=none, as there is no donor to be drawn to": values["donor.kind"] is DonorKind.none,
        "0 with method.lora, under which the donor's weights do not move": values["method.lora"] is not None,
    }
    yield from _refused("method.l2_sp", reasons, values)


def _refused(key: str, reasons: dict[str, bool], values: Values) -> Iterator[Fault]:
    """A fault for each reason, in the words of what is expected instead, that holds against a weight above 0."""
    for expected, holds in reasons.items():
        if holds:
            yield Fault(key=key, expected=expected, received=str(values[key]), remedy=f"{key}=0")


def _classes_counted_twice(values: Values) -> Iterator[Fault]:
    if values["data.balanced"] and values["loss.class_weights"] is ClassWeights.balanced:
        yield Fault(
            key="loss.class_weights",
            expected="none with data.balanced=true, as each class is drawn equally often already",
            received="balanced",
            remedy="loss.class_weights=none, or data.balanced=false",
        )


def _dropping_what_is_frozen(values: Values) -> Iterator[Fault]:
    still = values["freeze"] == "backbone" and values["unfreeze.kind"] is UnfreezeKind.never
    if values["backbone.drop_path"] is not None and still and values["method.lora"] is None:
        yield Fault(
            key="backbone.drop_path",
            expected="null with freeze=backbone, where it has no effect: no block of what is frozen is skipped",
            received=str(values["backbone.drop_path"]),
            remedy="freeze=none, or leave backbone.drop_path out",
        )


def _mixing_per_what(values: Values) -> Iterator[Fault]:
    if values["augment.mix_per"] != "batch" and not (values["augment.mixup"] or values["augment.cutmix"]):
        yield Fault(
            key="augment.mix_per",
            expected="batch without mixup and cutmix, where it has no effect",
            received=repr(values["augment.mix_per"]),
            remedy="augment.mixup=0.2, or leave augment.mix_per out",
        )


def _distill(values: Values) -> Iterator[Fault]:
    if not values["method.distill"]:
        if values["method.distill_temperature"] != schema_keys()["method.distill_temperature"].default:
            yield Fault(
                key="method.distill_temperature",
                expected="nothing without method.distill, where it has no effect",
                received=str(values["method.distill_temperature"]),
                remedy="method.distill=1, or leave method.distill_temperature out",
            )
        return
    still = values["freeze"] == "backbone" and values["unfreeze.kind"] is UnfreezeKind.never
    reasons = {
        "0 with donor=none, as there are no outputs to keep": values["donor.kind"] is DonorKind.none,
        "0 with donor.class_map, which makes rows of the donor's head the new head's": bool(values["donor.class_map"]),
        "0 with cache=features, as the donor must see the images": values["cache.kind"] is CacheKind.features,
        "0 with trainer.compile, which hides the features that its head is put on": values["trainer.compile"],
        "0 with freeze=backbone, under which the donor's outputs cannot change": still and not values["method.lora"],
    }
    yield from _refused("method.distill", reasons, values)


def _bitfit(values: Values) -> Iterator[Fault]:
    frozen = values["freeze"] == "backbone" and values["unfreeze.kind"] is UnfreezeKind.never
    if values["method.bitfit"] and (frozen or values["method.lora"] is not None):
        yield Fault(
            key="method.bitfit",
            expected="false with method.lora" if values["method.lora"] is not None else "false with freeze=backbone",
            received="true, which has no bias or norm of the backbone left to train",
            remedy="freeze=none and method.lora=null, or method.bitfit=false",
        )


def _lora(values: Values) -> Iterator[Fault]:
    if values["method.lora"] is None:
        for key, off in (("method.lora_alpha", None), ("method.lora_targets", [])):
            if values[key] != off:
                yield Fault(
                    key=key,
                    expected="nothing without method.lora, where it has no effect",
                    received=str(values[key]),
                    remedy=f"method.lora=8, or leave {key} out",
                )
        return
    if find_spec("peft") is None:
        yield Fault(
            key="method.lora",
            expected="the package peft",
            received="a Python without it",
            remedy="pip install peft",
        )
    if values["freeze"] != "backbone" or values["unfreeze.kind"] is not UnfreezeKind.never:
        yield Fault(
            key="method.lora",
            expected="freeze=backbone and unfreeze=never, as the backbone's own weights stay beside LoRA's",
            received=f"freeze={values['freeze']} and unfreeze={values['unfreeze.kind'].value}",
            remedy="freeze=backbone unfreeze=never, with method.lora_targets for some layers only",
        )


DISTILL_KEYS = (
    "method.distill",
    "method.distill_temperature",
    "method.lora",
    "donor.kind",
    "donor.class_map",
    "cache.kind",
    "trainer.compile",
    "freeze",
    "unfreeze.kind",
)

METHOD_RULES: tuple[tuple[tuple[str, ...], Callable[[Values], Iterator[Fault]]], ...] = (
    (("method.l2_sp", "method.lora", "donor.kind"), _l2_sp),
    (("data.balanced", "loss.class_weights"), _classes_counted_twice),
    (("backbone.drop_path", "method.lora", "freeze", "unfreeze.kind"), _dropping_what_is_frozen),
    (("augment.mix_per", "augment.mixup", "augment.cutmix"), _mixing_per_what),
    (DISTILL_KEYS, _distill),
    (("method.bitfit", "method.lora", "freeze", "unfreeze.kind"), _bitfit),
    (("method.lora", "method.lora_alpha", "method.lora_targets", "freeze", "unfreeze.kind"), _lora),
)
