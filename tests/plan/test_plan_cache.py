"""Which stages' outputs are kept, for which epochs, and how what is frozen runs on images."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from graft.config.compose import parse, register
from graft.config.faults import InputError
from graft.data.table import Sample, Table
from graft.models.network import Network, network_for
from graft.plan.features import CachePlan, plan_cache
from graft.plan.methods import schedule_of

CONF = Path(__file__).resolve().parents[2] / "conf"
EPOCH, EPOCHS = 3, 10  # steps, epochs
FOLDED = "without autograd, batch-norm folded, channels-last, in"
FLOAT32 = "folded, float32"
Epochs = tuple[int, int] | None


@cache
def resnet18() -> Network:
    return network_for(of("freeze=none").network, 2, device="meta")


def of(*words: str):
    register()
    small = (
        "backbone=resnet18", "data.image_size=64", "data.batch_size=4", f"trainer.max_epochs={EPOCHS}",
        "trainer.accelerator=cpu",
    )  # fmt: skip
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse(compose("config", [*small, *words]))


@cache
def planned(*words: str) -> CachePlan:
    config, network = of(*words), resnet18()
    samples = tuple(Sample(path=f"{number}.png", label=number % 2) for number in range(12))
    table = Table(classes=("a", "b"), train=samples, val=samples[:4], test=())
    schedule = schedule_of(config.freezing, network, config.checkpoint)
    phases = schedule.phases(EPOCH, EPOCH * EPOCHS)
    decided = schedule.states(EPOCH, EPOCH * EPOCHS)[len(phases) :]
    return plan_cache(config.features, table, network, phases, decided, steps_per_epoch=EPOCH)


def kept(*words: str) -> dict[str, Epochs]:
    return {each.cut: each.epochs for each in planned(*words).outputs}


THREE = ("unfreeze=lp_ft", "unfreeze.start=3 epochs")
ONE = ("unfreeze=lp_ft", "unfreeze.start=1 epoch")
STEPS = ("unfreeze=lp_ft", "unfreeze.start=8 steps")
EVERY_TWO = ("unfreeze=gradual", "unfreeze.start=2 epochs", "unfreeze.every=2 epochs")
AT = ("freeze=layer1-3", "unfreeze=at")
AGAIN = ("unfreeze=at", "unfreeze.table={3 epochs: layer1-2, 6 epochs: backbone}")
BY_TWO = {"layer4": (0, 2), "layer3": (2, 4), "layer2": (4, 6), "layer1": (6, 8), "stem": (8, 10)}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), {"layer4": (0, 10)}),
        (("freeze=layer1-3",), {"layer3": (0, 10)}),
        (THREE, {"layer4": (0, 3)}),
        (ONE, {}),  # to compute it once takes as long
        ((*ONE, "cache=features"), {"layer4": (0, 1)}),
        ((*THREE, "cache.views=4", "augment=rotations"), {}),
        ((*THREE, "cache.views=2", "augment=rotations"), {"layer4": (0, 3)}),
        (STEPS, {"layer4": (0, 2)}),  # its third epoch is not whole
        (EVERY_TWO, BY_TWO),
        ((*AT, "unfreeze.table={4 epochs: layer1-2}"), {"layer3": (0, 4), "layer2": (4, 10)}),
        ((*AT, "unfreeze.table={1 epochs: layer1-2}"), {"layer2": (1, 10)}),
        (AGAIN, {"layer4": (0, 3), "layer2": (3, 10)}),  # layer4 has moved before it is frozen again
        (("unfreeze=plateau",), {"layer4": None, "stem": None}),  # ten epochs leave no time to thaw the stem
        ((*THREE, "freeze_bn=none"), {}),
    ],
)
def test_each_phase_keeps_the_output_of_what_nothing_has_moved(words: tuple[str, ...], expected: dict[str, Epochs]):
    assert kept(*words) == expected


def test_the_plan_says_for_how_long_and_how_much():
    plan = planned(*EVERY_TWO)
    assert plan.reason.startswith("output of layer4 (epochs 1 to 2), layer3 (epochs 3 to 4), layer2 (epochs 5 to 6)")
    assert planned().reason == "output of layer4, computed once per image"
    assert planned("unfreeze=plateau").reason.startswith("output of layer4 (until it thaws)")
    assert plan.cut == "layer4"
    sizes = [each.size for each in plan.outputs]
    assert plan.size == plan.to_dict()["size"] == sum(sizes)
    pages = [size // 4096 for size in sizes[:3]]
    assert pages == [9, 65, 129]  # a header; 16 rows of 512, 256·4·4 and 128·8·8 numbers


def test_what_does_not_fit_beside_the_deepest_output_is_left_out():
    plan = planned(*EVERY_TWO, f"cache.max_gb={planned(*EVERY_TWO).outputs[0].size * 1.5 / 1e9}")
    assert [each.cut for each in plan.outputs] == ["layer4"]
    assert plan.reason.endswith("(no room within cache.max_gb for that of layer3, layer2, layer1, stem)")


def test_a_first_phase_of_less_than_an_epoch_has_nothing_to_keep():
    words = ("unfreeze=lp_ft", "unfreeze.start=2 steps")
    assert "received layer4 frozen for 0 whole epochs" in planned(*words).reason
    with pytest.raises(InputError, match=r"received layer4 frozen for 0 whole epochs; try a longer first phase"):
        planned(*words, "cache=features")


@pytest.mark.parametrize(
    ("words", "prefix"),
    [
        ((), f"{FOLDED} float32"),
        (("trainer.precision=bf16-mixed",), f"{FOLDED} bfloat16 for training and float32 for evaluation"),
        (("trainer.engine=false",), "as the network is, with trainer.engine=false"),
        (("trainer.recompute=true",), "as the network is, with trainer.recompute"),
        (("method.distill=1", "freeze=layer1-2"), "as the network is, which method.distill listens to"),
        (("freeze=none",), ""),
    ],
)
def test_the_plan_says_how_frozen_stages_run_on_images(
    words: tuple[str, ...], prefix: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    plan = planned("cache=none", *words)
    assert plan.prefix == plan.to_dict()["prefix"] == prefix


@pytest.mark.parametrize(
    ("words", "train"),
    [
        ((), FLOAT32),
        (("trainer.precision=32-true",), FLOAT32),
        (("trainer.precision=bf16-mixed",), "folded, bfloat16"),
        (("cache.dtype=float16",), f"{FLOAT32}, stored in float16"),
        (("trainer.engine=false", "trainer.precision=bf16-mixed"), "plain"),
    ],
)
def test_features_are_judged_in_float32_and_trained_on_so_unless_another_is_asked_for(
    words: tuple[str, ...], train: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    plan = planned("cache=features", *words)
    judged = "plain" if train == "plain" else FLOAT32
    assert plan.computed == plan.to_dict()["computed"] == {"train": train, "evaluation": judged}


def test_what_is_judged_takes_its_room_in_float32():
    """512 numbers for each of 12 training and 4 other images, on pages of 4096 bytes behind a header's."""
    whole, halved = planned("cache=features"), planned("cache=features", "cache.dtype=float16")
    assert whole.size // 4096 == 9
    assert halved.size // 4096 == 1 + 3 + 1 + 2


def test_blocks_pooled_under_one_layer_are_kept_as_one_vector_an_image() -> None:
    config = of("head=stages")
    network = network_for(config.network, 2, device="meta")
    samples = tuple(Sample(path=f"{number}.png", label=number % 2) for number in range(12))
    table = Table(classes=("a", "b"), train=samples, val=samples[:4], test=())
    schedule = schedule_of(config.freezing, network, config.checkpoint)
    phases = schedule.phases(EPOCH, EPOCH * EPOCHS)
    plan = plan_cache(config.features, table, network, phases, [], steps_per_epoch=EPOCH)
    assert [kept.cut for kept in plan.outputs] == ["layer4"]
    assert plan.size == pytest.approx(4480 * 4 * 16, abs=4096)
