"""trainer.tune=auto measures on copies: what it tries, what it may choose, and that nothing of the run changes."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import default_collate

from graft.config.faults import InputError
from graft.config.schema import SchedulerConfig, SchedulerKind, UnfreezeKind
from graft.finetune.freeze import apply_freeze
from graft.finetune.module import FineTuning
from graft.finetune.step_search import (
    GAIN,
    GRADIENT_TOLERANCE,
    TIMED,
    TOLERANCE,
    WARMING,
    Measured,
    SearchResult,
    Way,
    choose,
    measure,
    search_step,
    ways,
)
from graft.models.fingerprint import digests
from graft.models.stages import tensor_names

pytestmark = pytest.mark.usefixtures("no_bfloat16_units")

LAST = Way(channels_last=True, precision="32-true", update="fused")
FIRST = Way(channels_last=False, precision="32-true", update="fused")


def make(tiny, **changes):
    settings = {
        "freeze": "backbone",
        "kind": UnfreezeKind.gradual,
        "unfreeze": {"start": "2 steps", "every": "9 steps"},
    }
    return tiny.tuning(scheduler=SchedulerConfig(kind=SchedulerKind.constant), **{**settings, **changes})


def batches(tiny):
    images = tiny.Images(8)
    return [default_collate([images[0, index] for index in range(4 * at, 4 * at + 4)]) for at in range(2)]


def test_ways_keep_what_was_asked_for(tiny, monkeypatch):
    adamw = tiny.optimizer()
    assert ways(tiny.trainer(), adamw, "32-true", "cpu") == [LAST, FIRST]
    assert ways(tiny.trainer(channels_last=False), adamw, "32-true", "cpu") == [FIRST]
    assert ways(tiny.trainer(), adamw, "32-true", "cpu", on_images=False) == [LAST]
    assert [way.compile for way in ways(tiny.trainer(compile=True), adamw, "32-true", "cpu")] == [
        True,
        True,
        False,
        False,
    ]
    assert {way.update for way in ways(tiny.trainer(), tiny.optimizer(kwargs={"fused": False}), "32-true", "cpu")} == {
        ""
    }
    assert {way.update for way in ways(tiny.trainer(), tiny.optimizer(name="lamb"), "32-true", "cpu")} == {""}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    found = ways(tiny.trainer(), adamw, "32-true", "cpu")
    assert [(way.precision, way.channels_last) for way in found] == [
        ("32-true", True), ("32-true", False), ("bf16-mixed", True), ("bf16-mixed", False),
    ]  # fmt: skip
    assert {way.precision for way in ways(tiny.trainer(precision="32-true"), adamw, "32-true", "cpu")} == {"32-true"}


def test_what_is_chosen_is_what_is_trained_with(tiny):
    trainer, optimizer = FIRST.applied(tiny.trainer(), tiny.optimizer(kwargs={"eps": 1e-6}))
    assert (trainer.channels_last, trainer.precision, trainer.compile) == (False, "32-true", False)
    assert optimizer.kwargs == {"eps": 1e-6, "fused": True, "foreach": False}
    halved = Way(channels_last=True, precision="bf16-mixed", update="foreach")
    trainer, optimizer = halved.applied(tiny.trainer(), tiny.optimizer())
    assert (trainer.channels_last, trainer.precision) == (True, "bf16-mixed")
    assert optimizer.kwargs == {"fused": False, "foreach": True}


@pytest.mark.parametrize(
    ("seconds", "off", "chosen"),
    [
        ((1.0, 0.5), (0.0, 0.0), 1),
        ((1.0, 1.2), (0.0, 0.0), 0),
        ((1.0, 1.0 - GAIN / 2), (0.0, 0.0), 0),  # noise is no reason
        ((1.0, 0.5), (0.0, 2 * TOLERANCE), 0),
        ((1.0, 1.5), (2 * TOLERANCE, 0.0), 1),
        ((1.0, math.inf), (0.0, math.inf), 0),
    ],
)
def test_the_fastest_that_keeps_the_loss_is_chosen(seconds, off, chosen):
    pair = zip((LAST, FIRST), seconds, off, strict=True)
    tried = [Measured(way=way, seconds=time, losses=(), off=away) for way, time, away in pair]
    assert choose(tried) is tried[chosen].way


def test_a_way_whose_gradients_are_others_is_not_chosen():
    plain = Measured(way=LAST, seconds=1.0, losses=(2.0, 0.5), gradient=4.0)
    assert plain.beside(plain) == plain
    near = Measured(way=FIRST, seconds=0.5, losses=(2.03, 0.51), gradient=3.0).beside(plain)
    assert (near.off, near.gradient_off) == pytest.approx((0.015, 0.25))
    assert choose([plain, near]) is FIRST
    for gradient in (0.0, math.nan, 4.0 * (1.01 + GRADIENT_TOLERANCE)):
        broken = Measured(way=FIRST, seconds=0.5, losses=(2.0, 0.5), gradient=gradient).beside(plain)
        assert broken.off == 0
        assert choose([plain, broken]) is LAST


def test_weights_stay_so_that_losses_compare_and_gradients_are_the_first_steps(tiny):
    tuning, given = make(tiny, optimizer=tiny.optimizer(lr=10.0)), batches(tiny)
    found = measure(tuning, given, tiny.trainer(), LAST)
    first, second = found.losses[:2]
    assert first != second
    assert found.losses == pytest.approx([first, second, first, second, first], rel=1e-6)
    network = copy.deepcopy(tuning.network)
    apply_freeze(network, tuning.plan.longest_phase.frozen, tuning.plan.freeze_bn, heads=tiny.stages.heads)
    for part in network.modules():
        part.training = part.training and not isinstance(part, torch.nn.Dropout)
    loss = torch.nn.functional.cross_entropy(network(given[0]["image"]), given[0]["target"])
    loss.backward()
    norm = torch.nn.utils.get_total_norm([each.grad for each in network.parameters() if each.grad is not None])
    assert loss.item() == pytest.approx(first, rel=1e-5)
    assert found.gradient == pytest.approx(float(norm), rel=1e-4)


def test_what_is_measured_is_what_the_ways_compute(tiny):
    tuned = search_step(make(tiny), batches(tiny), tiny.trainer())
    assert isinstance(tuned, SearchResult)
    assert [each.way for each in tuned.tried[:2]] == [LAST, FIRST]
    assert tuned.tried[2].way.update == "foreach"
    assert all(0 < each.seconds < 60 for each in tuned.tried)
    assert all(each.off <= 1e-4 for each in tuned.tried)  # dropout, on in this network, is silent
    assert all(each.gradient_off <= 1e-4 for each in tuned.tried)
    assert all(len(each.losses) == WARMING + TIMED for each in tuned.tried)
    assert tuned.to_dict()["chosen"] in [
        {name: each[name] for name in ("channels_last", "precision", "compile", "update")}
        for each in tuned.to_dict()["tried"]
    ]


def test_bfloat16_is_measured_as_off_as_it_is(tiny):
    exact = measure(make(tiny), batches(tiny), tiny.trainer(), FIRST)
    halved = measure(
        make(tiny), batches(tiny), tiny.trainer(), Way(channels_last=False, precision="bf16-mixed", update="fused")
    )
    worst = max(abs(one - other) for one, other in zip(exact.losses, halved.losses, strict=True))
    assert 0 < worst < 0.05


def test_nothing_of_the_run_changes(tiny, tmp_path):
    plain, tuned = make(tiny), make(tiny)
    names = tensor_names(tuned.network)
    torch.manual_seed(3)
    before = digests(tuned.network, names), torch.get_rng_state().tolist()
    wanted = [parameter.requires_grad for parameter in tuned.network.parameters()]
    chosen = search_step(tuned, batches(tiny), tiny.trainer()).way
    assert (digests(tuned.network, names), torch.get_rng_state().tolist()) == before
    assert [parameter.requires_grad for parameter in tuned.network.parameters()] == wanted
    assert all(parameter.grad is None for parameter in tuned.network.parameters())
    trainer, optimizer = chosen.applied(tiny.trainer(), tuned.plan.optimizer)
    for each, folder in ((plain, "plain"), (tuned, "tuned")):
        each.planned["optimizer"] = optimizer
        tiny.fit(each, tiny.Data(), tmp_path / folder, trainer=trainer)
    assert [row["train/loss"] for row in plain.history] == [row["train/loss"] for row in tuned.history]
    assert digests(plain.network, names) == digests(tuned.network, names)


def test_the_longest_phase_is_measured(tiny, monkeypatch):
    tuning, seen, step = make(tiny), [], type(make(tiny)).training_step
    assert [phase.stop_step - phase.start_step for phase in tuning.plan.phases] == [2, 9, 3]
    assert tuning.plan.longest_phase is tuning.plan.phases[1]

    def watched(self, batch, batch_idx):
        seen.append({name.split(".")[0] for name, value in self.network.named_parameters() if value.requires_grad})
        return step(self, batch, batch_idx)

    monkeypatch.setattr(type(tuning), "training_step", watched)
    measure(tuning, batches(tiny), tiny.trainer(accumulate=2), LAST)
    assert seen == [{"layer3", "fc"}] * (2 * (WARMING + TIMED))


def test_a_loss_that_breaks_down_is_not_chosen(tiny):
    broken = batches(tiny)
    broken[0]["image"] = broken[0]["image"] * math.inf
    found = measure(make(tiny), broken, tiny.trainer(), LAST)
    assert found.seconds == math.inf
    assert all(math.isnan(loss) for loss in found.losses)


def test_an_argument_the_optimizer_does_not_take_is_told_as_ever(tiny):
    with pytest.raises(InputError, match=r"optimizer\.kwargs"):
        search_step(make(tiny, optimizer=tiny.optimizer(kwargs={"no_such": 1})), batches(tiny), tiny.trainer())


class Reads(TorchDispatchMode):
    """Counts the values that leave the device for Python, each of which waits for it."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_step_waits_for_the_device_no_more_than_its_judgement_does(tiny, tmp_path, monkeypatch, name):
    """On the CPU, where a look is free: is the loss finite, are the gradients. A GPU keeps both for later."""
    counts, step, reads = [], FineTuning.on_train_batch_start, Reads()

    def noted(self, batch, batch_idx):
        counts.append(reads.count)
        step(self, batch, batch_idx)

    monkeypatch.setattr(FineTuning, "on_train_batch_start", noted)
    tuning = tiny.tuning(freeze="layer1-2", engine=True, optimizer=tiny.optimizer(name=name))
    with reads:
        tiny.fit(tuning, tiny.Data(), tmp_path, trainer=tiny.trainer(max_epochs=1))
    assert [after - before for before, after in pairwise(counts[1:])] == [2] * 5
