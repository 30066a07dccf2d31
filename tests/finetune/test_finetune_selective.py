"""BitFit: which tensors train, that all others keep every bit, and where it would do nothing."""

from itertools import pairwise

import pytest
import torch

from graft.config.faults import InputError
from graft.config.schema import UnfreezeKind
from graft.finetune.methods.selective import biases_and_norms_only

BIASES_AND_NORMS = {
    "conv1.bias", "bn1.weight", "bn1.bias",
    *(f"layer{number}.bn.{name}" for number in (1, 2, 3) for name in ("weight", "bias")),
}  # fmt: skip
HEAD = {"fc.weight", "fc.bias"}


def bitfit(tiny, network, freeze="none", **options):
    return biases_and_norms_only(tiny.schedule(network, freeze, **options), network, tiny.stages)


def test_of_the_trunk_biases_and_norms_train_and_the_head_whole(tiny):
    network = tiny.network()
    never = bitfit(tiny, network).never_trained(5, 50)
    trained = {name for name, _ in network.named_parameters()} - never
    assert trained == BIASES_AND_NORMS | HEAD
    assert not any(name.endswith("running_mean") for name in never)


def test_what_the_freeze_holds_it_holds_still(tiny):
    network = tiny.network()
    schedule = bitfit(tiny, network, "backbone", kind=UnfreezeKind.gradual, start="2 steps", every="2 steps")
    frozen = [schedule.frozen_at(step, 10, 10).names for step in (0, 2, 4)]
    thawed = [before - after for before, after in pairwise(frozen)]
    own = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert thawed == [{f"layer{number}.bn.{name}" for name in own} for number in (3, 2)]
    assert str(schedule.frozen_at(2, 10, 10)) == "stem, layer1, layer2, part of layer3"


def test_what_a_plateau_releases_are_biases_and_norms_too(tiny):
    network = tiny.network()
    schedule = bitfit(tiny, network, "backbone", kind=UnfreezeKind.plateau)
    never = schedule.never_trained(5, 500)
    assert {name for name, _ in network.named_parameters()} - never == BIASES_AND_NORMS | HEAD


def test_after_training_all_else_has_every_bit_it_had(tiny, tmp_path):
    network = tiny.network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    tuning = tiny.tuning(network, schedule=bitfit(tiny, network))
    result = tiny.fit(tuning, tiny.Data(), tmp_path, trainer=tiny.trainer())
    after = torch.load(result.last_path, weights_only=True)["state_dict"]
    moved = {name for name, value in before.items() if not value.equal(after[f"network.{name}"])}
    statistics = {name for name in before if "running" in name or "tracked" in name}
    assert moved == BIASES_AND_NORMS | HEAD | statistics
    assert result.frozen_verified is True


def test_where_no_bias_trains_it_is_refused(tiny):
    with pytest.raises(InputError, match=r"method\.bitfit: .* holds them all for good; try freeze=none"):
        bitfit(tiny, tiny.network(), "backbone")
