"""The plan: what follows from config, data and donor, without values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir

from graft.config.compose import parse, register
from graft.config.faults import InputError
from graft.config.schema import Config
from graft.data.table import Sample, Table
from graft.models import network
from graft.plan.describe import count, describe
from graft.plan.plan import Plan, make_plan
from graft.transfer import donor_of_module
from graft.transfer.chosen import open_chosen
from graft.transfer.donor import Donor

CONF = Path(__file__).resolve().parents[2] / "conf"
RESNET18 = ("backbone=resnet18", "data.image_size=64", "data.batch_size=4")


def config_of(*overrides: str) -> Config:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse(compose("config", [*RESNET18, *overrides]))


def table_of(train: int = 12) -> Table:
    samples = tuple(Sample(path=f"{number}.png", label=number % 2) for number in range(train))
    return Table(classes=("a", "b"), train=samples, val=samples[:4], test=())


def resnet18() -> Donor:
    torch.manual_seed(0)
    return donor_of_module(torchvision.models.resnet18())


def plan_of(*overrides: str) -> Plan:
    return make_plan(config_of(*overrides), table_of(), resnet18)


def test_a_figure_that_the_validation_images_do_not_define_chooses_no_epoch():
    table = table_of()
    alike = Table(classes=("a", "b"), train=table.train, val=table.train[::2], test=())
    chosen = ("checkpoint.monitor=val/auroc", "checkpoint.direction=max")
    told = (
        r"checkpoint\.monitor: expected a figure that the validation images define, received val/auroc of 6 images"
        r" \(val has no image of b: left out of macro-F1, AUROC; .*\); try checkpoint\.monitor=val/loss"
    )
    with pytest.raises(InputError, match=told):
        make_plan(config_of(*chosen), alike, resnet18)
    assert make_plan(config_of("checkpoint.monitor=val/f1", "checkpoint.direction=max"), alike, resnet18)


def test_the_counts_are_those_of_the_network():
    plan = plan_of("freeze=layer1-3")
    rows = {row.name: row for row in plan.stages}
    assert [row.name for row in plan.stages] == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert rows["stem"].parameters == 3 * 64 * 49 + 2 * 64
    assert rows["head"].parameters == 512 * 2 + 2
    assert plan.total == 11_177_538
    assert plan.trainable == rows["layer4"].parameters + rows["head"].parameters
    assert [row.name for row in plan.stages if row.frozen] == ["stem", "layer1", "layer2", "layer3"]


def test_a_donor_without_batch_counters_may_be_frozen(tmp_path: Path):
    """As files older than PyTorch 0.4.1 and all of Keras' are: the counter plays no part in the function."""
    state = {name: value for name, value in torchvision.models.resnet18().state_dict().items() if "tracked" not in name}
    torch.save(state, tmp_path / "old.pth")
    config = config_of("donor=file", f"donor.path={tmp_path / 'old.pth'}", "freeze=backbone")
    plan = make_plan(config, table_of(), lambda: open_chosen(config.network))
    counters = [entry for entry in plan.ledger.tensors if entry.target.endswith("num_batches_tracked")]
    assert len(counters) == 20
    assert {(entry.verdict.value, entry.reason) for entry in counters} == {
        ("initialized", "the donor counts no batches; the counter plays no part in the function")
    }


def test_frozen_statistics_that_no_donor_filled_are_refused(tmp_path: Path):
    config = config_of("freeze=backbone", "donor.skip=[layer1.0.bn1.running_mean]")
    with pytest.raises(InputError, match=r"received 1 random tensors .*\(layer1\.0\.bn1\.running_mean\)"):
        make_plan(config, table_of(), resnet18)


def test_the_range_says_that_the_stem_is_implied():
    assert "stem implied" in describe(plan_of("freeze=layer1-3"))


def test_the_steps_follow_batches_and_accumulation():
    plan = plan_of("trainer.max_epochs=3", "trainer.accumulate=2")
    assert (plan.training.steps_per_epoch, plan.training.total_steps) == (2, 6)  # 12 images in 3 batches of 4


def test_rates_say_first_highest_and_last_of_each_phase():
    plan = plan_of(
        "freeze=backbone", "unfreeze=lp_ft", "unfreeze.start=1 epoch", "trainer.max_epochs=3", "scheduler=constant",
        "optimizer.lr=0.01", "optimizer.lr_scale={head: 10}",
    )  # fmt: skip
    rates = {group.name: plan.rates(group) for group in plan.training.groups}
    assert rates["layer4"] == [None, (0.01, 0.01, 0.01)]
    assert rates["head"] == [pytest.approx((0.1, 0.1, 0.1)), pytest.approx((0.1, 0.1, 0.1))]


def test_what_the_training_decides_is_said_so_with_the_most_that_may_train():
    plan = plan_of("unfreeze=plateau", "trainer.max_epochs=10", "unfreeze.patience=3", "checkpoint.monitor=train/loss")
    text = describe(plan)
    assert "then decided by train/loss, each time it has not improved for 3 epochs, one after the other:" in text
    assert "trainable at most" in text
    assert {group.stage for group in plan.training.groups} == {"layer3", "layer4", "head"}
    layer4 = [line for line in text.splitlines() if line.startswith("layer4 ")][-1]
    assert layer4.endswith("decided by train/loss")
    decided = plan.to_dict()["decided"]
    assert decided["by"] == "train/loss"
    assert [state["frozen_stages"][-1] for state in decided["states"]] == ["layer3", "layer2"]
    assert len(plan.training.phases) == 1
    assert "leave no time for the last 3 states" in text


def test_the_rates_show_each_phases_factor_and_what_thaws_warming_up():
    plan = plan_of(
        "unfreeze=lp_ft", "unfreeze.start=1 epoch", "trainer.max_epochs=3", "scheduler=constant", "optimizer.lr=0.01",
        "unfreeze.phase_factors=[1,0.1]", "unfreeze.warmup=2 steps",
    )  # fmt: skip
    rates = {group.name: plan.rates(group) for group in plan.training.groups}
    assert rates["layer4"] == [None, pytest.approx((0.0005, 0.001, 0.001))]
    assert rates["head"] == [(0.01, 0.01, 0.01), pytest.approx((0.001, 0.001, 0.001))]
    text = describe(plan)
    assert "after 1 epoch: nothing, every rate ×0.1" in text
    assert "what thaws comes to its rate in 2 steps" in text
    assert "0.0005 → 0.001" in text


@pytest.mark.parametrize(
    ("words", "remark"),
    [
        (("freeze_bn=none", "freeze=stem"), "freeze_bn=none: 3 batch-norm statistics of frozen stages move"),
        (("freeze_bn=none", "freeze=none"), "freeze_bn=none has no effect: what is frozen has no batch-norm"),
        (("freeze_bn=all", "freeze=none"), None),
        (("freeze=none",), None),
    ],
)
def test_a_norm_policy_that_surprises_is_remarked(words: tuple[str, ...], remark: str | None):
    text = describe(plan_of(*words))
    assert "freeze_bn" not in text if remark is None else remark in text


def test_a_rate_to_be_found_is_said_so_and_then_put_in():
    plan = plan_of("head.solver=sgd", "optimizer.lr=find", "optimizer.lr_scale={head: 2}", "scheduler=constant")
    assert "optimizer.lr is to be found by a range test; below, multiples of it" in describe(plan)
    told = plan.to_dict()
    assert (told["lr"], told["lr_source"], told["groups"][0]["rates"]) == (None, "to be found", None)
    found = plan.with_rate(0.003)
    told = found.to_dict()
    assert (told["lr"], told["lr_source"]) == (0.003, "found")
    assert told["groups"][0]["rates"] == [pytest.approx((0.006, 0.006, 0.006))]
    assert "to be found" not in describe(found)
    assert plan.config.optimizer.lr == "find"
    assert plan_of().to_dict()["lr_source"] == "given"


def test_one_cycle_shows_its_peak():
    plan = plan_of("freeze=none", "scheduler=one_cycle", "optimizer.lr=0.01", "trainer.max_epochs=10")
    group = next(group for group in plan.training.groups if group.name == "layer4")
    first, highest, last = plan.rates(group)[0] or (0, 0, 0)
    assert first == pytest.approx(0.0004)
    assert highest == pytest.approx(0.01, rel=0.02)
    assert last == pytest.approx(0.000001)


def test_every_fault_between_config_and_donor_is_reported_at_once():
    with pytest.raises(InputError) as raised:
        make_plan(
            config_of("freeze=layr1", "optimizer.lr_scale={laier4: 2}", "donor.skip=[nothing.*]"), table_of(), resnet18
        )
    for word in ("layr1", "laier4", "nothing.*"):
        assert word in str(raised.value)


def test_freezing_what_no_donor_filled_is_an_error():
    with pytest.raises(InputError, match="random"):
        plan_of("donor=none", "freeze=layer1-3")


def test_thawed_random_weights_are_no_error():
    config = config_of("donor=none", "freeze=none")
    plan = make_plan(config, table_of(), lambda: open_chosen(config.network))
    assert plan.ledger.summary["initialized"] == 122
    assert "from scratch" in describe(plan)


def test_cache_auto_says_why_not():
    assert "augmented at random" in plan_of("augment=rotations").cache.reason
    assert "stage that trains" in plan_of("freeze=none").cache.reason
    full = plan_of("freeze=layer1-2", "cache.max_gb=0.000001")
    assert full.cache.cut is None
    assert "cache.max_gb" in full.cache.reason


def test_cache_features_states_its_size():
    plan = plan_of("cache=features", "freeze=layer1-3")
    assert plan.cache.cut == "layer3"
    assert plan.cache.size >= 16 * 256 * 4 * 4 * 4  # 16 rows of layer3's output at 64 pixels in float32
    with pytest.raises(InputError, match="max_gb"):
        plan_of("cache=features", "freeze=layer1-3", "cache.max_gb=0.000001")


def test_channels_adapt_the_first_layer():
    plan = plan_of("data.channels=1")
    entry = plan.ledger.by_target["conv1.weight"]
    assert entry.verdict.value == "adapted"
    assert entry.info.shape == (64, 1, 7, 7)
    assert len(plan.network.preprocess.mean) == 1


def test_two_channels_ask_for_a_rule():
    with pytest.raises(InputError, match="input_select"):
        plan_of("data.channels=2")


def test_the_plan_is_json():
    import json

    assert json.loads(json.dumps(plan_of().to_dict()))["parameters"]["trainable"] == 1026


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1280, "1.28k"), (3_371_024, "3.37M"), (2.5e9, "2.5G")]
)
def test_counts_are_short(number: float, text: str):
    assert count(number) == text


def test_methods_are_listed_and_what_they_keep_is_counted():
    plan = plan_of("freeze=layer1-3", "method.l2_sp=0.1", "method.ema=0.9", "method.distill=1", "augment.mixup=0.2")
    shown = describe(plan)
    assert [line.split(" ")[0] for line in plan.methods] == ["L2-SP", "running", "distillation", "mixup,"]
    assert all(line in shown for line in plan.methods)
    assert {name.split(".")[0] for name in plan.anchored} == {"layer4"}  # of what trains
    decayed = {name for group in plan.training.groups if group.weight_decay for name in group.names}
    assert decayed == {"fc.weight"}
    weights = {name: value.numel() for name, value in plan.network.module.named_parameters()}
    teacher = 11_689_512  # the donor, with its head of 1000 classes
    assert plan.memory.methods == 4 * (sum(weights[name] for name in plan.anchored) + plan.trainable + teacher)
    assert plan.teacher is not None
    assert (plan.teacher.network.classes, plan.teacher.head) == (1000, "fc")


def test_l2_sp_with_nothing_that_moves_is_refused():
    with pytest.raises(InputError, match=r"method\.l2_sp: expected weights of the donor's that train"):
        plan_of("method.l2_sp=0.1")


def test_lora_trains_beside_what_is_frozen():
    plan = plan_of("method.lora=2")
    assert len(plan.lora) == 20  # every convolution of a ResNet-18
    names = {name for group in plan.training.groups for name in group.names}
    assert all("lora" in name or name.startswith("fc.") for name in names)
    assert len(names) == 2 * 20 + 2
    assert plan.cache.cut is None
    assert not any("lora" in entry.target for entry in plan.ledger.tensors)


def test_bitfit_trains_biases_and_norms_of_what_is_thawed():
    plan = plan_of("method.bitfit=true", "freeze=layer1-3")
    names = {name for group in plan.training.groups for name in group.names}
    assert names == {
        *(f"layer4.{block}.bn{number}.{part}" for block in (0, 1) for number in (1, 2) for part in ("weight", "bias")),
        "layer4.0.downsample.1.weight", "layer4.0.downsample.1.bias", "fc.weight", "fc.bias",
    }  # fmt: skip


def test_a_plan_is_the_same_whatever_was_planned_before(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [
        ("freeze=backbone", "cache=features"),
        ("freeze=backbone", "cache=features", "head=mlp"),
        ("freeze=backbone", "cache=features", "data.image_size=96"),
        ("freeze=layer1-2", "cache=features"),
        ("freeze=backbone", "cache=features", "cache.dtype=float16", "data.batch_size=8"),
        ("freeze=backbone", "cache=features", "optimizer.lr=0.5"),
    ]
    alone = []
    for words in others:
        monkeypatch.setattr("graft.models.memo._answers", {})
        alone.append(plan_of(*words).to_dict())
    monkeypatch.setattr("graft.models.memo._answers", {})
    asked = []
    check = network._check_forward
    monkeypatch.setattr(network, "_check_forward", lambda *args: (asked.append(args[1]), check(*args)))
    assert [plan_of(*words).to_dict() for words in (*others, *others)] == alone * 2
    assert (asked.count((3, 64, 64)), asked.count((3, 96, 96))) == (3, 2), "each head, all blocks; the other size"


def test_the_plan_lists_what_has_no_weight_decay():
    words = ("freeze=layer1-3", "optimizer.weight_decay=0.1", "optimizer.no_decay=[layer4.0.conv1.weight]")
    plan = plan_of(*words)
    listed = plan.to_dict()["no_decay"]
    assert listed["layer4.0.conv1.weight"] == "optimizer.no_decay"
    assert (listed["layer4.0.bn1.weight"], listed["fc.bias"]) == ("norm", "bias")
    assert not any(name.startswith("layer3") for name in listed), "what never trains is not listed"
    line = next(line for line in describe(plan).splitlines() if line.startswith("no decay"))
    assert "1 optimizer.no_decay (layer4.0.conv1.weight)" in line
    assert plan_of("freeze=layer1-3", "optimizer.weight_decay=0").to_dict()["no_decay"] == {}


def test_a_head_that_no_plain_model_has_is_told():
    plan = plan_of("head=stages")
    told = plan.to_dict()["head"]
    assert (told["kind"], told["width"], told["at"]) == ("stages", 4480, ["fc"])
    assert told["taps"][0] == {"module": "bn1", "axes": [2, 3], "statistics": ["mean", "std"]}
    assert "No plain resnet18 loads these weights" in describe(plan)
    assert "No plain" not in describe(plan_of())
    assert {row.name for row in plan.stages if not row.frozen} == {"head"}
    assert plan.trainable == 4480 * 2 + 2
