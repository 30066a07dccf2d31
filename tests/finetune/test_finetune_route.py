"""How batches go through the network: through an engine or from kept features, with the losses of the whole."""

import copy
import math
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from graft.config.schema import MethodConfig, SchedulerConfig, SchedulerKind, UnfreezeKind
from graft.data.loader import KeyedLoader
from graft.data.sampling import KeyedBatchSampler
from graft.finetune.module import FineTuning
from graft.finetune.rate_search import range_test
from graft.finetune.route import EVALUATION, TRAIN, WHOLE, Route
from graft.models.cut import split
from graft.system.machine import threads

EPOCH = 7  # steps
FLOAT32 = {"train": "folded, float32", "evaluation": "folded, float32"}
THAWING = {"freeze": "backbone", "kind": UnfreezeKind.gradual, "unfreeze": {"start": "4 steps", "every": "6 steps"}}
# Frozen, trained and frozen again: what was folded in the first phase is not what is frozen in the third.
AGAIN = {
    "freeze": "layer1-2",
    "kind": UnfreezeKind.at,
    "unfreeze": {"table": {"5 steps": "none", "9 steps": "layer1-2"}},
}
LP_FT = {"freeze": "backbone", "kind": UnfreezeKind.lp_ft, "unfreeze": {"start": "2 epochs"}}


def make(tiny, **changes):
    plain = tiny.optimizer(name="sgd", lr=0.05, weight_decay=0.0)  # Adam makes much of the last bit of a small gradient
    tuning = tiny.tuning(scheduler=SchedulerConfig(kind=SchedulerKind.one_cycle), optimizer=plain, **changes)
    with torch.no_grad():  # statistics that say something, so that a norm folded wrongly shows
        for norm in (part for part in tuning.network.modules() if isinstance(part, nn.BatchNorm2d)):
            norm.running_mean.copy_(torch.linspace(-0.3, 0.3, 4))
            norm.running_var.copy_(torch.linspace(0.5, 2, 4))
    return tuning


def losses(result):
    return [row[name] for row in result.history for name in ("train/loss", "val/loss")]


@pytest.mark.parametrize(
    ("settings", "cuts"),
    [
        ({"freeze": "layer1-2"}, ["layer2"]),
        ({"freeze": "layer1-2", "method": MethodConfig(ema=0.9)}, ["layer2"]),
        (THAWING, ["layer3", "layer2", "layer1", "stem"]),
        (AGAIN, ["layer2"]),
        (LP_FT, ["layer3"]),
        ({"freeze": "none"}, []),
    ],
    ids=["layer1-2", "mean", "gradual", "again", "lp_ft", "none"],
)
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_engine_gives_the_losses_of_the_network(tiny, tmp_path, settings, cuts, channels_last):
    trainer = tiny.trainer(max_epochs=3, channels_last=channels_last)
    plain, fast = make(tiny, **settings), make(tiny, **settings, engine=True)
    expected = tiny.fit(plain, tiny.Data(), tmp_path / "plain", trainer=trainer)
    received = tiny.fit(fast, tiny.Data(), tmp_path / "fast", trainer=trainer)
    judged = {"evaluation": WHOLE} if "method" in settings else {}  # the mean is another network
    ways = {cut: {**FLOAT32, **judged} for cut in cuts}
    if settings is THAWING:
        del ways["layer3"]["evaluation"]  # that phase has ended before the first epoch has
    assert received.prefix == ways
    assert expected.prefix == {}
    assert losses(received) == pytest.approx(losses(expected), abs=1e-5)
    assert received.metrics == pytest.approx(expected.metrics, abs=1e-5)
    assert received.frozen_verified is expected.frozen_verified
    after = fast.network.state_dict()
    assert list(after) == list(tiny.network().state_dict())
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-4)


def test_training_goes_through_the_copy_and_the_last_word_is_the_network_s(tiny, tmp_path):
    tuning, passes = make(tiny, freeze="layer1-2", engine=True), Counter()

    def count(*_):
        passes[tuning.trainer.state.fn.value] += 1

    tuning.network.layer2.bn.register_forward_hook(count)
    tuning.network.layer3.bn.register_forward_hook(lambda *_: passes.update(["behind"]))
    tiny.fit(tuning, tiny.Data(), tmp_path, trainer=tiny.trainer(max_epochs=2))
    proven = 3  # on two images: the whole network once, the prefix with what lies behind it, the prefix with its fold
    assert passes["fit"] <= proven
    assert passes["validate"] == math.ceil(9 / 4)
    assert passes["test"] == math.ceil(6 / 4)
    assert passes["behind"] >= 2 * (EPOCH + math.ceil(9 / 4))


def test_frozen_activations_are_not_kept_for_a_backward_pass(tiny):
    tuning = make(tiny, freeze="layer1-2", engine=True)
    tuning.adopt(tuning.plan)
    tuning.enter_phase(0)
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: shapes.append(kept.shape) or kept, lambda kept: kept):
        tuning.train().logits({"image": torch.randn(4, 3, 8, 8)}).sum().backward()
    assert shapes
    assert torch.Size([4, 3, 8, 8]) not in shapes
    assert tuning.network.conv1.weight.grad is None
    assert tuning.network.layer3.conv.weight.grad is not None


@pytest.mark.parametrize(("hook", "at"), [("training_step", 5), ("on_validation_epoch_end", 0), ("training_step", 16)])
def test_stopped_and_resumed_with_the_engine_is_the_same_run(tiny, tmp_path, monkeypatch, hook, at):
    def run(folder):
        data, trainer = tiny.Data(), tiny.trainer(max_epochs=3)
        tuning = make(tiny, **THAWING, engine=True)
        result = tiny.fit(tuning, data, folder, trainer=trainer, checkpoint=tiny.checkpoint(every_n_steps=2))
        return losses(result), {name: value.clone() for name, value in tuning.network.state_dict().items()}

    expected, weights = run(tmp_path / "whole")
    calls, original = iter(range(1_000)), getattr(FineTuning, hook)

    def stopping(self, *args):
        if next(calls) == at:
            raise KeyError("stopped")
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, hook, stopping)
        with pytest.raises(KeyError, match="stopped"):
            run(tmp_path / "stopped")
    received, again = run(tmp_path / "stopped")
    assert received == expected
    assert all(again[name].equal(value) for name, value in weights.items())


def test_an_evaluation_behind_a_phase_s_last_step_belongs_to_that_phase(tiny, tmp_path, monkeypatch):
    """Where a run is resumed at that point, the next phase has been entered already."""
    tuning = make(tiny, freeze="backbone", kind=UnfreezeKind.lp_ft, unfreeze={"start": "1 epoch"}, engine=True)
    seen, evaluate, begin = [], FineTuning.validation_step, FineTuning.on_validation_epoch_start

    def begins_late(self):
        self.enter_phase(self.global_step)
        begin(self)

    def evaluates(self, batch, batch_idx):
        evaluate(self, batch, batch_idx)
        seen.append(self.route.cut)

    monkeypatch.setattr(FineTuning, "on_validation_epoch_start", begins_late)
    monkeypatch.setattr(FineTuning, "validation_step", evaluates)
    tiny.fit(tuning, tiny.Data(), tmp_path, trainer=tiny.trainer(max_epochs=2))
    in_training = seen[: 2 * math.ceil(9 / 4)]
    assert in_training == ["layer3"] * math.ceil(9 / 4) + [None] * math.ceil(9 / 4)


class Contrary(nn.Module):
    """Goes another way for other values, which no tracer follows."""

    def __init__(self, network):
        super().__init__()
        for name, part in network.named_children():
            setattr(self, name, part)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer1(x) if x.sum() > 0 else -self.layer1(x)
        return self.fc(self.layer3(self.layer2(x)).mean((2, 3)))


def test_a_network_that_cannot_be_cut_runs_as_it_is_and_says_so(tiny, tmp_path):
    result = tiny.fit(
        make(tiny, module=Contrary(tiny.network()), freeze="layer1-2", engine=True),
        tiny.Data(), tmp_path, trainer=tiny.trainer(max_epochs=1),
    )  # fmt: skip
    assert list(result.prefix) == ["layer2"]
    assert list(result.prefix["layer2"]) == ["train", "evaluation"]
    for how in result.prefix["layer2"].values():
        assert how.startswith(f"{WHOLE}: cut: expected a network that torch.fx can cut after layer2")


def test_a_run_that_goes_on_knows_how_the_phases_before_were_computed(tiny, tmp_path):
    def again():
        tuning = make(tiny, freeze="layer1-2", engine=True)
        return tiny.fit(tuning, tiny.Data(), tmp_path, trainer=tiny.trainer(max_epochs=1))

    first = again()
    assert first.prefix == {"layer2": FLOAT32}
    second = again()
    assert second.resumed_from is not None
    assert second.prefix == first.prefix


def test_an_engine_that_computes_something_else_is_not_used(tiny):
    """A mean far from zero leaves nothing of the digits once it is folded into a bias."""
    network = make(tiny, freeze="layer1-2").network.eval()
    with torch.no_grad():
        norm = network.layer2.bn
        norm.running_mean.fill_(1e6)
        norm.bias.copy_(1e6 * norm.weight / (norm.running_var + norm.eps).sqrt())
    image = torch.randn(2, 3, 8, 8)
    route = Route(network, tiny.stages, fast=True)
    route.enter(0, lambda: [name for name in network.state_dict() if not name.startswith(("layer3", "fc"))])
    assert route({"image": image}).equal(network(image))
    said = f"{WHOLE}: cut: expected the same features from the folded prefix"
    assert route.ways["layer2"]["train"].startswith(said)


@pytest.mark.parametrize(
    ("precision", "units", "train"),
    [
        ("32-true", True, "float32"), ("bf16-mixed", True, "bfloat16"), ("bf16-mixed", False, "float32"),
        ("16-mixed", True, "bfloat16"), ("auto", True, "float32"),
    ],
)  # fmt: skip
def test_an_engine_trains_in_the_precision_asked_for_and_is_judged_in_float32(
    tiny, monkeypatch, precision, units, train
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": units})
    network, image = make(tiny).network.eval(), torch.randn(4, 3, 8, 8)
    route = Route(network, tiny.stages, fast=True, precision=precision)
    route.enter(0, lambda: [name for name in network.state_dict() if not name.startswith(("layer3", "fc"))])
    trained, judged = (route({"image": image}, purpose=purpose) for purpose in (TRAIN, EVALUATION))
    assert route.ways == {"layer2": {"train": f"folded, {train}", "evaluation": "folded, float32"}}
    torch.testing.assert_close(judged, network(image), atol=1e-5, rtol=1e-5)
    assert trained.equal(judged) is (train == "float32")
    torch.testing.assert_close(trained, judged, atol=0.05, rtol=0.05)


class Features(Dataset):
    def __init__(self, images, features):
        self.images, self.features = images, features

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        found = self.images[key]
        del found["image"]
        return {**found, "features": self.features[key[1]]}


def kept(tiny, tuning):
    """What lies behind layer1 and behind layer3, and data that serve their features."""

    class Kept(tiny.Data):
        def __init__(self):
            super().__init__()
            self.served, self.serve, self.stored = [], tuning.kept_at, {}

        def loader(self, part):
            images = self.parts[part]

            def stored(epoch):
                cut = self.serve(epoch)
                self.served.append((part, epoch, cut))
                tag = lambda items: {**torch.utils.data.default_collate(items), "cut": cut}  # noqa: E731
                return None if cut is None else (Features(images, self.stored[part, cut]), tag)

            sampler = KeyedBatchSampler(len(images), self.batch_size, seed=self.seed, shuffle=part == "train")
            collate = torch.utils.data.default_collate
            return KeyedLoader(images, sampler, collate_fn=collate, stored=stored)

    data = Kept()
    for cut in ("layer1", "layer3"):
        prefix, tuning.route.behind[cut] = split(tuning.network, tiny.stages, cut)
        with torch.no_grad():
            data.stored.update({(part, cut): prefix(images.image) for part, images in data.parts.items()})
    return data


def test_each_epoch_trains_on_the_deepest_features_that_hold(tiny, tmp_path):
    settings = {
        "freeze": "backbone", "kind": UnfreezeKind.at,
        "unfreeze": {"table": {"2 epochs": "layer1-2", "24 steps": "none"}},
    }  # fmt: skip
    plain, fast = make(tiny, **settings), make(tiny, **settings, engine=True)
    trainer = tiny.trainer(max_epochs=5)
    data = kept(tiny, fast)
    before = copy.deepcopy(fast.network.state_dict())
    expected = tiny.fit(plain, tiny.Data(), tmp_path / "plain", trainer=trainer)
    received = tiny.fit(fast, data, tmp_path / "kept", trainer=trainer)
    assert losses(received) == pytest.approx(losses(expected), abs=1e-5)
    # Two epochs behind layer3, one behind layer1; the fourth thaws at its fourth step; what is judged last are images.
    by_epoch = ["layer3", "layer3", "layer1", None, None]
    assert data.served == [
        *[(part, epoch, cut) for epoch, cut in enumerate(by_epoch) for part in ("train", "val")],
        ("val", 5, None),
        ("test", 5, None),
    ]
    assert not fast.network.conv1.weight.equal(before["conv1.weight"])


def test_features_that_no_phase_moves_serve_the_last_evaluation_too(tiny, tmp_path):
    tuning = make(tiny, freeze="layer1-2")
    data = kept(tiny, tuning)
    tiny.fit(tuning, data, tmp_path, trainer=tiny.trainer(max_epochs=1))
    assert {cut for _, _, cut in data.served} == {"layer1"}


def test_a_mean_of_the_weights_is_judged_by_its_own_part_behind_the_cut(tiny, tmp_path):
    settings = {"freeze": "layer1", "method": MethodConfig(ema=0.5)}
    plain, fast = make(tiny, **settings), make(tiny, **settings)
    expected = tiny.fit(plain, tiny.Data(), tmp_path / "plain", trainer=tiny.trainer())
    received = tiny.fit(fast, kept(tiny, fast), tmp_path / "kept", trainer=tiny.trainer())
    assert losses(received) == pytest.approx(losses(expected), abs=1e-5)


def test_a_range_test_goes_by_the_engine_of_its_copy(tiny):
    plain, fast = (make(tiny, freeze="layer1-2", engine=engine) for engine in (False, True))
    expected = range_test(plain, tiny.Data().train_dataloader(), tiny.trainer())
    received = range_test(fast, tiny.Data().train_dataloader(), tiny.trainer())
    assert received.losses[:20] == pytest.approx(expected.losses[:20], abs=1e-4)
    assert fast.route.ways == {}


@pytest.mark.parametrize(
    ("settings", "trainer", "expected"),
    [
        ({"freeze": "backbone"}, {}, {1}),
        ({"freeze": "layer1-2"}, {}, {2}),  # a convolution trains
        ({"freeze": "backbone", "kind": UnfreezeKind.at, "unfreeze": {"table": {"1 epochs": "none"}}}, {}, {2}),
        ({"freeze": "backbone"}, {"threads": 2}, {2}),
    ],
    ids=["head", "stage", "thawed later", "told"],
)
def test_a_head_on_kept_features_trains_on_one_thread(tiny, tmp_path, settings, trainer, expected):
    tuning = make(tiny, **settings)
    data = kept(tiny, tuning)
    seen = set()
    tuning.network.fc.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    with threads(2):
        tiny.fit(tuning, data, tmp_path, trainer=tiny.trainer(max_epochs=2, **trainer))
        assert torch.get_num_threads() == 2
    assert seen == expected
