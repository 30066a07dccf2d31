"""What the trainer's options cannot be had with: rules of rules.py's kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from graft.config.choices import FIND
from graft.config.faults import Fault

Values = Mapping[str, Any]


def _one_process_measures(values: Values) -> Iterator[Fault]:
    processes = values["trainer.devices"] * values["trainer.num_nodes"]
    measured = {"optimizer.lr": (FIND, "a number", "number"), "trainer.tune": ("auto", "off", "settings")}
    for key, (word, instead, outcome) in measured.items():
        if values[key] == word and processes > 1:
            yield Fault(
                key=key,
                expected=f"{instead} with several processes, which must all train alike",
                received=f"{word} with {processes} processes",
                remedy=f"{key}={word} with trainer.devices=1 first, then the {outcome} that it gives",
            )


def _recompute_uncompiled(values: Values) -> Iterator[Fault]:
    if values["trainer.compile"] and values["trainer.recompute"]:
        yield Fault(
            key="trainer.recompute",
            expected="false with trainer.compile, which chooses by itself what is computed twice",
            received="True",
            remedy="trainer.compile=false, or trainer.recompute=false",
        )


def _stops_at_the_best(values: Values) -> Iterator[Fault]:
    if values["trainer.patience"] is not None and values["checkpoint.epoch"] == "last":
        yield Fault(
            key="trainer.patience",
            expected="checkpoint.epoch=best, as the last epoch of an early stop is one that did not improve",
            received=f"{values['trainer.patience']} with checkpoint.epoch=last",
            remedy="checkpoint.epoch=best, or trainer.patience=null",
        )


def _nothing_decays(values: Values) -> Iterator[Fault]:
    if values["optimizer.no_decay"] and not values["optimizer.weight_decay"]:
        yield Fault(
            key="optimizer.no_decay",
            expected="nothing with optimizer.weight_decay=0, where it has no effect",
            received=str(values["optimizer.no_decay"]),
            remedy="optimizer.weight_decay=0.01, or leave optimizer.no_decay out",
        )


def _clipped_unfused(values: Values) -> Iterator[Fault]:
    """A fused optimizer unscales the gradients itself, within its step: before it there is nothing to clip."""
    fused = (values["optimizer.kwargs"] or {}).get("fused")
    if fused and values["trainer.precision"] == "16-mixed" and values["trainer.clip_norm"]:
        yield Fault(
            key="optimizer.kwargs",
            expected="no fused=true with trainer.precision=16-mixed and trainer.clip_norm, which needs the gradients"
            " unscaled before the optimizer's step",
            received="fused: true",
            remedy="trainer.precision=bf16-mixed, or leave fused out",
        )


def _sharded(values: Values) -> Iterator[Fault]:
    """What reads or copies whole weights between steps, which no process has under fsdp."""
    if values["trainer.strategy"] != "fsdp":
        return
    if values["trainer.accelerator"] == "cpu":
        yield Fault(
            key="trainer.strategy",
            expected="auto or ddp with trainer.accelerator=cpu, as fsdp shares weights out over GPUs",
            received="fsdp",
            remedy="trainer=ddp trainer.accelerator=cpu",
        )
    off = {
        "method.ema": None,
        "method.l2_sp": 0.0,
        "method.distill": 0.0,
        "method.lora": None,
        "trainer.clip_norm": None,
    }
    for key, plain in off.items():
        if values[key] != plain:
            yield Fault(
                key=key,
                expected="nothing with trainer.strategy=fsdp, under which no process has whole weights",
                received=str(values[key]),
                remedy=f"trainer=ddp, or leave {key} out",
            )


SHARDED_KEYS = (
    "trainer.strategy",
    "trainer.accelerator",
    "trainer.clip_norm",
    "method.ema",
    "method.l2_sp",
    "method.distill",
    "method.lora",
)

TRAINER_RULES: tuple[tuple[tuple[str, ...], Callable[[Values], Iterator[Fault]]], ...] = (
    (("trainer.compile", "trainer.recompute"), _recompute_uncompiled),
    (("optimizer.lr", "trainer.tune", "trainer.devices", "trainer.num_nodes"), _one_process_measures),
    (("trainer.patience", "checkpoint.epoch"), _stops_at_the_best),
    (("optimizer.no_decay", "optimizer.weight_decay"), _nothing_decays),
    (("optimizer.kwargs", "trainer.precision", "trainer.clip_norm"), _clipped_unfused),
    (SHARDED_KEYS, _sharded),
)
