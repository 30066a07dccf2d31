"""The running mean of the weights: its recursion, what it leaves alone, and what is judged by it."""

import pytest
import torch

from graft.config.schema import MethodConfig, UnfreezeKind
from graft.finetune.methods.average import Average
from graft.finetune.route import Route


def moved(network, by):
    with torch.no_grad():
        for value in network.parameters():
            value.add_(by)


def test_the_mean_follows_its_recursion_with_a_decay_that_rises_to_its_bound(tiny):
    network = tiny.network()
    start = network.layer2.conv.weight.detach().clone()
    average = Average(Route(network, tiny.stages), 0.15, still=())
    expected, value = start.clone(), start.clone()
    for step, by in enumerate((1.0, -0.5, 2.0)):
        moved(network, by)
        value = value + by
        decay = (0.1, 0.15, 0.15)[step]  # 1/10, then 2/11 would be more than the bound
        expected = decay * expected + (1 - decay) * value
        average.update(network)
    assert torch.allclose(average.network.layer2.conv.weight, expected, atol=1e-6)
    assert average.steps == 3


def test_a_network_whose_buffers_become_other_tensors_is_followed(tiny):
    network = tiny.network()
    average = Average(Route(network, tiny.stages), 0.9, still=())
    average.update(network)
    network.bn1.running_var = torch.full((4,), 11.0)  # as moving to another device leaves it
    average.to(torch.device("cpu"), torch.contiguous_format)
    average.update(network)  # decay 2/11
    assert torch.allclose(average.network.bn1.running_var, torch.full((4,), (2 * 1 + 9 * 11) / 11))


def test_statistics_of_batch_norm_are_averaged_and_counters_taken_over(tiny):
    network = tiny.network()
    average = Average(Route(network, tiny.stages), 0.9, still=())
    network.bn1.running_var.fill_(11.0)
    network.bn1.num_batches_tracked.fill_(7)
    average.update(network)  # decay 0.1
    mean = average.network
    assert torch.allclose(mean.bn1.running_var, torch.full((4,), 0.1 * 1 + 0.9 * 11))
    assert int(mean.bn1.num_batches_tracked) == 7
    assert not mean.training


def test_what_never_moves_is_shared_and_stays(tiny):
    network = tiny.network()
    average = Average(Route(network, tiny.stages), 0.9, still={"conv1.weight", "conv1.bias", "bn1.running_mean"})
    assert average.network.conv1.weight is network.conv1.weight
    assert average.network.fc.weight is not network.fc.weight
    assert {"conv1.weight", "conv1.bias", "bn1.running_mean"}.isdisjoint(average.names)


def test_a_run_is_judged_by_the_mean_and_ends_with_it(tiny, tmp_path):
    plain = tiny.tuning(freeze="stem")
    result = tiny.fit(plain, tiny.Data(), tmp_path / "plain", trainer=tiny.trainer())
    tuning = tiny.tuning(freeze="stem", method=MethodConfig(ema=0.9))
    averaged = tiny.fit(tuning, tiny.Data(), tmp_path / "mean", trainer=tiny.trainer())
    best = torch.load(averaged.best_path, weights_only=True)
    mean = best["graft"]["average"]["tensors"]
    final = dict(tuning.network.named_parameters())
    assert "conv1.weight" not in mean
    assert {name for name in mean if name in final} == {name for name in final if not name.startswith(("conv1", "bn1"))}
    assert all(final[name].equal(value) for name, value in mean.items() if name in final)
    # It trains as without a mean, and says other things of the images.
    raw, beside = (torch.load(run.last_path, weights_only=True)["state_dict"] for run in (result, averaged))
    assert set(raw) == set(beside)
    assert all(value.equal(beside[name]) for name, value in raw.items())
    assert result.metrics["val/loss"] != averaged.metrics["val/loss"]
    assert averaged.metrics["val/loss"] == pytest.approx(
        averaged.history[averaged.best_epoch - 1]["val/loss"], abs=1e-6
    )
    assert averaged.frozen_verified is True


def test_the_mean_of_a_part_behind_a_cut_uses_the_means_own_tensors(tiny):
    network = tiny.network()
    part = torch.nn.Sequential(network.layer3, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), network.fc)
    average = Average(Route(network, tiny.stages, {"layer2": part}), 0.5, still=())
    mean, behind = average.network, average.route.behind["layer2"]
    assert behind[0] is mean.layer3
    assert behind[3].weight is mean.fc.weight


def test_its_decay_is_part_of_what_a_resumed_run_must_share(tiny, tmp_path):
    settings = {"freeze": "backbone", "kind": UnfreezeKind.never}
    tiny.fit(tiny.tuning(**settings, method=MethodConfig(ema=0.9)), tiny.Data(), tmp_path, trainer=tiny.trainer())
    with pytest.raises(ValueError, match=r"method\.ema: 0\.9 in the checkpoint, 0\.5 now"):
        tiny.fit(tiny.tuning(**settings, method=MethodConfig(ema=0.5)), tiny.Data(), tmp_path, trainer=tiny.trainer())
