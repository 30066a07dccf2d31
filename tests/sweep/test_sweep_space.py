"""What is swept, in Hydra's grammar, as a grid's points and as Optuna's distributions; the settings' faults."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from graft.config.compose import sweep_name
from graft.config.faults import ConfigError, InputError
from graft.sweep.objectives import read_objectives
from graft.sweep.samplers import make_pruner, make_sampler
from graft.sweep.space import Space, as_text, distributions, measuring, points, read_space
from graft.sweep.sweep_settings import read_settings


def space(*words: str, **params: Any) -> Space:
    return read_space(params, words, OverridesParser.create())


def test_a_grid_is_the_product_of_its_values_in_the_order_written() -> None:
    read = space("freeze=layer1,layer1-2", "seed=range(0,2)", "backbone=resnet18")
    assert points(read) == [
        {"freeze": "layer1", "seed": "0"}, {"freeze": "layer1", "seed": "1"},
        {"freeze": "layer1-2", "seed": "0"}, {"freeze": "layer1-2", "seed": "1"},
    ]  # fmt: skip
    assert read.overrides({"seed": "1"}) == ["backbone=resnet18", "seed=1"]


def test_what_trials_are_judged_by_is_measured() -> None:
    objectives, _ = read_objectives(["val/accuracy max", "latency_ms min"])
    read = measuring(space("freeze=a,b", "seed=3"), objectives)
    assert read.fixed == ("seed=3", "trainer.latency=true")
    assert measuring(read, objectives) == read
    assert measuring(read_space({}, ["seed=3"], OverridesParser.create()), objectives[:1]).fixed == ("seed=3",)
    for word in ("trainer.latency=false", "trainer.latency=true,false"):
        with pytest.raises(InputError, match=r"trainer.latency: expected true, as trials are judged by latency_ms"):
            measuring(space(word), objectives)


def test_a_list_is_one_value_and_keeps_its_quotes() -> None:
    assert points(space("freeze=[layer1,layer2],[layer1]", "donor.path='a b','c'")) == [
        {"freeze": "[layer1,layer2]", "donor.path": "'a b'"}, {"freeze": "[layer1,layer2]", "donor.path": "'c'"},
        {"freeze": "[layer1]", "donor.path": "'a b'"}, {"freeze": "[layer1]", "donor.path": "'c'"},
    ]  # fmt: skip


def test_the_command_line_wins_over_params() -> None:
    read = space("seed=3", "lr=0.1", seed="1,2", lr="choice(1,2)", decay="tag(log,interval(1e-3,1))")
    assert list(read.swept) == ["decay"]
    assert read.fixed == ("seed=3", "lr=0.1")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("x=interval(0.1, 0.9)", FloatDistribution(0.1, 0.9)),
        ("x=tag(log, interval(1e-5, 1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("x=interval(1, 8)", FloatDistribution(1.0, 8.0)),
        ("x=int(interval(1, 8))", IntDistribution(1, 8)),
        ("x=range(1, 9, 2)", IntDistribution(1, 7, step=2)),
        ("x=range(0, 1, 0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("x=a,b", CategoricalDistribution(["a", "b"])),
        ("x=choice(a, [b,c])", CategoricalDistribution(["a", "[b,c]"])),
        ("x=range(0, 1, 0.3)", FloatDistribution(0.0, 0.9, step=0.3)),  # 3 × 0.3 is not 0.9 in floating point
        ("x=interval(2, 2)", FloatDistribution(2.0, 2.0)),
    ],
)
def test_each_form_is_a_distribution(word: str, expected: BaseDistribution) -> None:
    assert distributions(space(word), "tpe") == {"x": expected}


@pytest.mark.parametrize(
    ("word", "sampler", "said"),
    [
        ("x=1", "tpe", "expected a key to search over, received none"),
        ("x=tag(quick, interval(0, 1))", "tpe", "x: expected no tag but log, received quick"),
        ("x=tag(log, choice(1, 2))", "tpe", "x: expected the tag log on an interval only"),
        ("x=tag(log, interval(0, 1))", "tpe", "x: expected an interval above 0 with the tag log"),
        ("x=a,b", "cmaes", "x: expected an interval or a range with sampler=cmaes"),
        ("x=range(1, 1)", "tpe", "x: expected at least one value, received range(1, 1)"),
        ("x=interval(1, 0)", "tpe", "x: expected an interval from a number up to another, received interval(1, 0)"),
        ("x=interval(0, inf)", "tpe", "x: expected an interval from a number up to another, received interval(0, inf)"),
    ],
)
def test_what_cannot_be_searched_is_said(word: str, sampler: str, said: str) -> None:
    with pytest.raises(InputError) as raised:
        distributions(space(word), sampler)
    assert said in str(raised.value)


def test_a_grid_has_no_intervals() -> None:
    with pytest.raises(ConfigError, match=r"x: expected values that can be counted, .*; try hydra/sweeper=bayes"):
        points(space("x=interval(0, 1)"))
    with pytest.raises(InputError, match=r"hydra.sweeper.params: expected values in Hydra's override syntax"):
        space(x="choice(1")
    with pytest.raises(ConfigError, match=r"x: expected at least one value, received range\(1, 1\)"):
        points(space("x=range(1, 1)", "y=1,2"))


def test_a_value_that_is_named_twice_is_one_point() -> None:
    assert points(space("x=1,2,1", "y=a,b,b")) == [{"x": x, "y": y} for x in "12" for y in "ab"]


def test_a_sampled_number_is_written_with_every_digit() -> None:
    assert [as_text(value) for value in (0.1 + 0.2, 1e-05, 3, "a")] == ["0.30000000000000004", "1e-05", "3", "a"]


def test_every_fault_of_the_settings_is_told_at_once() -> None:
    given = {
        "objectives": ["val/loss", "test/accuracy max", "val/f1 max", "val/f1 max"], "n_trials": 0, "retries": "two",
        "sampler": "tpee", "pruner": "medain", "retry_failed": "yes", "pruner_options": None,
    }  # fmt: skip
    with pytest.raises(ConfigError) as raised:
        read_settings(given)
    assert [(fault.key.removeprefix("hydra.sweeper."), fault.remedy) for fault in raised.value.faults] == [
        ("objectives", "'hydra.sweeper.objectives=[val/loss max]'"),
        ("objectives", "'hydra.sweeper.objectives=[val/accuracy max]'"),
        ("objectives", ""),
        ("n_trials", "hydra.sweeper.n_trials=1"),
        ("retries", "hydra.sweeper.retries=1"),
        ("sampler", "hydra.sweeper.sampler=tpe"),
        ("pruner", "hydra.sweeper.pruner=median"),
        ("retry_failed", "hydra.sweeper.retry_failed=true"),
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objectives": "val/loss"}, "objectives: expected a metric and min or max, received 'val/loss'"),
        ({"objectives": 3}, "objectives: expected a metric and min or max, received '3'"),
        ({"retries": None}, "retries: expected a whole number from 0 upward, received None"),
        ({"seed": None}, "seed: expected a whole number from 0 upward, received None"),
        ({"params": [1]}, "params: expected names and their values, received [1]; try 'hydra.sweeper.params={NAME: "),
        ({"pruner": "median", "pruner_options": "x"}, "pruner_options: expected names and their values, received 'x'"),
        ({"storage": 5}, "storage: expected text, or null, received 5; try hydra.sweeper.storage=null"),
        ({"study": ""}, "study: expected text, or null, received ''"),
        ({"n_trails": 3}, "n_trails: expected a key of the sweeper, received 3; try hydra.sweeper.n_trials=…"),
        (
            {"objectives": ["parameters min"], "pruner": "median"},
            "pruner: expected none with the objective parameters, which is measured once, at a trial's end",
        ),
    ],
)
def test_a_fault_of_the_settings_is_told(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_settings({"objectives": ["val/loss min"], **given})
    assert next(str(fault) for fault in raised.value.faults).startswith(f"hydra.sweeper.{said}")
    assert len(raised.value.faults) == 1


def test_one_objective_may_be_written_without_a_list() -> None:
    assert [str(each) for each in read_settings({"objectives": "val/loss min"}).objectives] == ["val/loss min"]
    assert read_settings({"objectives": ["val/loss min"], "batch": None, "n_trials": None}).batch is None


def test_several_objectives_go_with_neither_pruner_nor_cmaes() -> None:
    both = ["val/accuracy max", "parameters min"]
    with pytest.raises(ConfigError) as raised:
        read_settings({"objectives": both, "n_trials": 3, "sampler": "cmaes", "pruner": "median"})
    assert [fault.key for fault in raised.value.faults] == ["hydra.sweeper.pruner", "hydra.sweeper.sampler"]
    assert [str(each) for each in read_settings({"objectives": both}).objectives] == both


def test_options_of_samplers_and_pruners_are_checked() -> None:
    with pytest.raises(InputError, match=r"sampler_options for tpe: expected .*, received startup; try n_start"):
        make_sampler("tpe", {"startup": 3}, seed=0, number=0)
    with pytest.raises(InputError, match=r"pruner_options for halving: expected values that Optuna takes"):
        make_pruner("halving", {"reduction_factor": 1})


def test_a_package_that_a_choice_needs_is_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.sweep.samplers.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"hydra\.sweeper\.sampler=cmaes: expected the package cmaes, received an env"):
        make_sampler("cmaes", {}, seed=0, number=0)
    with pytest.raises(InputError, match=r"hydra\.sweeper\.pruner=wilcoxon: expected the package scipy"):
        make_pruner("wilcoxon", {})
    assert make_pruner("median", {}) is not None


def test_a_sweeps_folder_is_named_after_its_command_in_any_order() -> None:
    name = sweep_name(["optimizer.lr=1,2", "freeze=layer1,layer1-2", "seed=3"], "grid")
    assert name.startswith("freeze+lr-")
    assert name == sweep_name(["seed=3", "freeze=layer1,layer1-2", "optimizer.lr=1,2"], "grid")
    others = [("seed=4", "grid"), ("seed=3", "grid"), ("seed=3", "bayes")]
    assert len({name, *(sweep_name([word], sweeper) for word, sweeper in others)}) == 4
