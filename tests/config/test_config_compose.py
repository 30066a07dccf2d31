"""From a composed config to typed values: each kind of mistake, and several at once."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from graft.config.compose import parse, register
from graft.config.examples import EXAMPLES, example
from graft.config.faults import ConfigError, Fault, InputError
from graft.config.schema import Config, DonorKind, Targets

CSV = ["data=csv", f"data.root={__file__}"]
CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(scope="module", autouse=True)
def hydra_here() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@cache
def options(*choices: str) -> DictConfig:
    return compose("config", list(choices))


def parsed(*overrides: str) -> Config:
    """As `parse(compose(…))`, but each choice of options is composed once: Hydra takes longer than the test."""
    choices = [override for override in overrides if (CONF / override.partition("=")[0]).is_dir()]
    cfg = deepcopy(options(*choices))
    for override in map(OverridesParser.create().parse_override, (word for word in overrides if word not in choices)):
        OmegaConf.update(cfg, override.key_or_group, override.value(), force_add=override.is_add())
    return parse(cfg)


def faults_of(*overrides: str) -> dict[str, Fault]:
    with pytest.raises(ConfigError) as caught:
        parsed(*overrides)
    assert isinstance(caught.value, InputError)
    assert str(caught.value).splitlines() == [str(fault) for fault in caught.value.faults]
    return {fault.key: fault for fault in caught.value.faults}


def test_values_arrive_typed() -> None:
    config = parsed(
        "optimizer.lr=3e-4",
        "optimizer.lr_scale={layer4: 0.1, head: 10}",
        "donor.adapt={conv1.weight: input_sum}",
        "freeze=[layer1,layer2]",
        "data.targets=soft",
        "optimizer.kwargs.betas=[0.9,0.95]",
    )
    assert config.optimizer.lr == 3e-4
    assert config.optimizer.lr_scale == {"layer4": 0.1, "head": 10.0}
    assert config.donor.adapt == {"conv1.weight": "input_sum"}
    assert config.freeze == ["layer1", "layer2"]
    assert config.data.targets is Targets.soft
    assert config.donor.kind is DonorKind.pretrained
    assert config.optimizer.kwargs == {"betas": [0.9, 0.95]}


WRONG = [
    # key=value, what is expected, what was received, what to type instead
    ("optimizer.lr=abc", "a finite number above 0, or find", "'abc'", "optimizer.lr=1e-3"),
    ("optimizer.lr=fnd", "a finite number above 0, or find", "'fnd'", "optimizer.lr=1e-3"),
    ("optimizer.lr=true", "a finite number above 0, or find", "True", "optimizer.lr=1e-3"),
    ("optimizer.lr=-0.1", "a finite number above 0, or find", "-0.1", "optimizer.lr=1e-3"),
    ("optimizer.lr=0", "a finite number above 0, or find", "0", "optimizer.lr=1e-3"),
    ("optimizer.lr=inf", "a finite number above 0, or find", "inf", "optimizer.lr=1e-3"),
    ("optimizer.lr=nan", "a finite number above 0, or find", "nan", "optimizer.lr=1e-3"),
    ("optimizer.weight_decay=-1", "a finite number from 0 upward", "-1.0", "optimizer.weight_decay=0.0"),
    ("optimizer.lr_scale={layer4: -1}", "for each entry a finite number above 0", "{'layer4': -1.0}", "lr_scale={head"),
    ("optimizer.lr_scale={layer4: x}", "for each entry a finite number above 0", "{'layer4': 'x'}", "lr_scale={head"),
    ("optimizer.layer_decay=1.5", "more than 0 and at most 1", "1.5", "optimizer.layer_decay=0.75"),
    ("data.batch_size=0", "a whole number from 1 upward", "0", "data.batch_size=32"),
    ("data.batch_size=1.5", "a whole number from 1 upward", "1.5", "data.batch_size=32"),
    ("data.batch_size=true", "a whole number from 1 upward", "True", "data.batch_size=32"),
    ("data.image_size=8", "a whole number of pixels from 16 upward", "8", "data.image_size=224"),
    ("data.val_fraction=1", "at least 0 and less than 1", "1.0", "data.val_fraction=0.15"),
    ("data.targets=sof", "one of hard, soft", "'sof'", "data.targets=soft"),
    ("data.on_error=ignore", "one of stop, skip", "'ignore'", "data.on_error=stop"),
    ("data.channels=0", "a whole number from 1 upward", "0", "data.channels=3"),
    ("head.dropout=1", "at least 0 and less than 1", "1.0", "head.dropout=0.0"),
    ("augment.hflip=1.5", "at least 0 and at most 1", "1.5", "augment.hflip=0.0"),
    ("augment.crop_scale=[1.0,0.5]", "[smallest, largest] shares", "[1.0, 0.5]", "augment.crop_scale=[0.8,1.0]"),
    ("trainer.max_epochs=0", "a whole number from 1 upward", "0", "trainer.max_epochs=10"),
    ("trainer.max_epochs=ten", "a whole number from 1 upward", "'ten'", "trainer.max_epochs=10"),
    ("trainer.accelerator=cuda", "one of auto, cpu, gpu", "'cuda'", "trainer.accelerator="),
    ("trainer.strategy=dpp", "one of auto, ddp, fsdp", "'dpp'", "trainer.strategy=ddp"),
    ("trainer.precision=bf16", "one of auto, 32-true, bf16-mixed, 16-mixed", "'bf16'", "trainer.precision=bf16-mixed"),
    ("trainer.compile=maybe", "true or false", "'maybe'", "trainer.compile=false"),
    ("donor.match=nam", "one of name, structure, table", "'nam'", "donor.match=name"),
    ("donor.rename=[['(', x]]", "[pattern, replacement] pairs", "[['(', 'x']]", "donor.rename="),
    ("donor.rename=[[a, '\\1']]", "[pattern, replacement] pairs", r"[['a', '\\1']]", "donor.rename="),
    ("donor.rename=[[a]]", "[pattern, replacement] pairs", "[['a']]", "donor.rename="),
    ("donor.sha256=123abc", "64 hexadecimal digits", "'123abc'", "donor.sha256="),
    ("donor.skip=fc", "a list of texts", "'fc'", ""),
    ("donor.adapt=input_sum", "a mapping of texts to values", "'input_sum'", "donor.adapt="),
    ("freeze=3", "a stage expression", "3", "freeze=backbone"),
    ("freeze=[1,2]", "a stage expression", "[1, 2]", "freeze=backbone"),
    ("freeze=''", "a stage expression", "''", "freeze=backbone"),
    ("scheduler.warmup=soon", '"2 epochs", "500 steps", "10%"', "'soon'", "scheduler.warmup=0"),
    ("scheduler.warmup=-1", '"2 epochs", "500 steps", "10%"', "-1", "scheduler.warmup=0"),
    ("seed=-1", "a whole number from 0 to 4294967295", "-1", "seed=0"),
    ("checkpoint.monitor=test/accuracy", "of the validation or training part", "'test/accuracy'", "=val/loss"),
    ("checkpoint.direction=up", "one of min, max", "'up'", "checkpoint.direction=min"),
    ("loss.label_smoothing=1", "at least 0 and less than 1", "1.0", "loss.label_smoothing=0.0"),
    ("checkpoint=3", "a group of keys", "3", "checkpoint.KEY=VALUE"),
]


@pytest.mark.parametrize(("override", "expected", "received", "remedy"), WRONG, ids=[row[0] for row in WRONG])
def test_a_wrong_value_is_answered(override: str, expected: str, received: str, remedy: str) -> None:
    (fault,) = faults_of(override).values()
    assert fault.key == override.partition("=")[0]
    assert expected in fault.expected
    assert fault.received == received
    assert remedy in fault.remedy


@pytest.mark.parametrize(
    ("overrides", "key", "said"),
    [
        (["donor=file"], "donor.path", "expected a file with donor=file, received nothing; try donor.path=PATH"),
        (["donor=run"], "donor.path", "expected the folder of a run with donor=run, received nothing"),
        (["donor=keras"], "donor.path", "expected a file with donor=keras, received nothing"),
        (["donor=file", "donor.path=nowhere.pt"], "donor.path", "expected a file that exists, received nowhere.pt"),
        (["data=folder"], "data.root", "expected a folder with data=folder, received nothing; try data.root=PATH"),
        (["data=csv"], "data.root", "expected a file with data=csv, received nothing"),
        (["data=folder", "data.root=nowhere"], "data.root", "expected a folder that exists, received nowhere"),
        (["data=folder", f"data.root={__file__}"], "data.root", "try data=csv"),
        (["data=csv", f"data.root={CONF}"], "data.root", "try data=folder"),
        (["head=custom"], "head.target", "expected the import path of a module class with head=custom"),
        (["head=mlp", "head.hidden=[]"], "head.hidden", "expected the width of at least one hidden layer"),
        (["unfreeze=at"], "unfreeze.table", "expected a table of moment to freeze expression with unfreeze=at"),
        (["unfreeze=at", "unfreeze.table={soon: none}"], "unfreeze.table", "expected moments as"),
        (["unfreeze=gradual", "unfreeze.every=0"], "unfreeze.every", "expected more than nothing"),
        (["donor.match=table"], "donor.table", "with donor.match=table, received nothing"),
        (["backbone=timm"], "backbone.name", "expected text (The model's name in its library), received nothing"),
        (["optimizer=timm"], "optimizer.name", "received nothing"),
        (["donor=none"], "freeze", "expected none with donor=none"),
        (["freeze=none", "unfreeze=gradual"], "unfreeze", "nothing is left to thaw"),
        (["data=folder", f"data.root={CONF}", "data.targets=soft"], "data.targets", "expected hard with data=folder"),
        ([*CSV, "data.val_fraction=0.5", "data.test_fraction=0.5"], "data.test_fraction", "less than 1 together"),
        (["data.train=${oc.env:GRAFT_NOWHERE}"], "data.train", "try export GRAFT_NOWHERE=…"),
        (["data.train=${nothing.there}"], "data.train", "expected a value that can be resolved"),
        (["cache=features", "augment=light"], "cache", "expected no random augmentation before the cut"),
        (["cache=images", "cache.views=3"], "cache.views", "expected 0 unless cache=features"),
    ],
)
def test_what_must_hold_together_is_answered(overrides: list[str], key: str, said: str) -> None:
    faults = faults_of(*overrides)
    assert list(faults) == [key]
    assert said in str(faults[key])


@pytest.mark.parametrize(
    ("overrides", "key", "needed"),
    [
        (["head.hidden=[256]"], "head.hidden", "head=mlp"),
        (["head=none", "head.dropout=0.5"], "head.dropout", "head=linear or head=mlp"),
        (["head.target=a.B"], "head.target", "head=custom"),
        (["unfreeze.every=3"], "unfreeze.every", "unfreeze=gradual"),
        (["unfreeze.start=3"], "unfreeze.start", "unfreeze=gradual or unfreeze=lp_ft"),
        (["scheduler.gamma=0.5"], "scheduler.gamma", "scheduler=step"),
        (["scheduler.peak_at=0.5"], "scheduler.peak_at", "scheduler=one_cycle"),
        (["scheduler=step", "scheduler.min_factor=0.1"], "scheduler.min_factor", "scheduler=cosine"),
        (["cache=none", "cache.dtype=float16"], "cache.dtype", "cache=features"),
        (["cache=none", "cache.max_gb=5"], "cache.max_gb", "cache=features or cache=images"),
        (["data.test=held_out"], "data.test", "data=folder"),
        (["donor.path=x.pt"], "donor.path", "donor=file or donor=run or donor=keras"),
        (["donor.table={a: b}"], "donor.table", "donor.match=table"),
        (["donor.keras.fold_bias=true"], "donor.keras.fold_bias", "donor=keras"),
    ],
)
def test_a_key_without_effect_is_answered(overrides: list[str], key: str, needed: str) -> None:
    faults = faults_of(*overrides)
    assert list(faults) == [key]
    assert "where it has no effect" in faults[key].expected
    assert needed in faults[key].remedy


def test_every_fault_comes_at_once() -> None:
    faults = faults_of(
        "+optimizer.lrr=1", "optimizer.lr=abc", "data.batch_size=-1", "data=folder", "head.hidden=[256]", "seed=x"
    )
    assert set(faults) == {"optimizer.lrr", "optimizer.lr", "data.batch_size", "data.root", "head.hidden", "seed"}
    assert faults["optimizer.lrr"].remedy == "optimizer.lr"


def test_what_hangs_on_a_wrong_value_is_not_judged() -> None:
    assert set(faults_of("donor.kind=fil", "donor.path=x.pt", "donor.ema=true")) == {"donor.kind"}


def test_an_unknown_group_in_a_file_is_one_fault() -> None:
    (fault,) = faults_of("+optimiser={lr: 1, name: x}").values()
    assert (fault.key, fault.remedy) == ("optimiser", "optimizer=OPTION")


@pytest.mark.parametrize("key", sorted(EXAMPLES))
def test_what_an_example_says_to_type_is_right(key: str) -> None:
    line = example(key).strip('"')
    try:
        parsed(line)
    except ConfigError as error:
        said = [fault for fault in error.faults if fault.key == key]
        fitting = ("has no effect", "that exists", "have no table of columns", "nothing without")
        assert all(any(words in fault.expected for words in fitting) for fault in said)
