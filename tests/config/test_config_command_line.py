"""Mistakes of a command line: each kind of word, sweeps, and all of them together."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.config.command_line import check_command_line
from graft.config.compose import register
from graft.config.faults import Fault

CONF = Path(__file__).resolve().parents[2] / "conf"
HEADS = "auto, custom, linear, mlp, none, stages"
EXPERIMENTS = f"one of {', '.join(sorted(path.stem for path in CONF.glob('experiment/*.yaml')))}"


@pytest.fixture(autouse=True)
def schema() -> None:
    register()


def faults_of(*argv: str) -> list[Fault]:
    return check_command_line(argv, CONF)


def only(*argv: str) -> Fault:
    (fault,) = faults_of(*argv)
    return fault


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["seed=1"],
        ["mode=plan", "backbone=resnet50", "freeze=layer1-3"],
        ["freeze=[layer1,layer2]"],
        ["optimizer.lr_scale={layer4: 0.1}", "optimizer.lr_scale.head=10"],
        ["donor.adapt={conv1.weight: input_sum}"],
        ["donor.adapt={conv*.weight: {name: input_select, channels: [0]}}"],
        ["optimizer={lr: 0.1, kwargs: {eps: 1e-7}}"],
        ["experiment=solar_cells_finetune", "seed=3"],
        ["hydra.run.dir=outputs/here", "hydra.job.name=train_ddp_process_1", "hydra.output_subdir=null"],
        ["hydra/job_logging=default"],
        ["-m", "freeze=layer1,layer1-2", "optimizer.lr=1e-4,3e-4", "seed=range(0,3)"],
        ["-m", "optimizer.lr=interval(1e-5,1e-2)", "optimizer=adamw,sgd"],
        ["-m", "optimizer.weight_decay=choice(0,0.1)", "backbone=glob(resnet*)"],
        ["--cfg", "job", "seed=1"],
        ["--multirun", "seed=1,2", "hydra.sweep.dir=outputs/sweep"],
    ],
)
def test_what_is_right_is_left_alone(argv: list[str]) -> None:
    assert faults_of(*argv) == []


@pytest.mark.parametrize(
    "argv", [["--help"], ["-h"], ["--hydra-help"], ["--version"], ["-sc", "install=bash"], ["--info"], ["-i", "config"]]
)
def test_hydra_answers_its_own_questions(argv: list[str]) -> None:
    assert faults_of(*argv, "lrr=1") == []


WRONG = [
    # argv, key, expected, received, what to type instead
    (["optimizer.lrr=1"], "optimizer.lrr", "a key of the config", "an unknown key", "optimizer.lr"),
    (["lr=1"], "lr", "a key of the config", "an unknown key", "optimizer.lr"),
    (["model=resnet18"], "model", "a key of the config", "an unknown key", "backbone=OPTION"),
    (["+zq=1"], "zq", "a key of the config", "an unknown key", "--help, which lists them"),
    (["++data.extra=1"], "data.extra", "a key of the config", "an unknown key", "data."),
    (["trainer.devices=two"], "trainer.devices", "a whole number from 1 upward", "'two'", "trainer.devices=1"),
    (["trainer.num_nodes=null"], "trainer.num_nodes", "a whole number from 1 upward", "None", "trainer.num_nodes=1"),
    (["optimizer=null"], "optimizer", "one of adamw, custom, sgd, timm", "null", ""),
    (["experiment=null"], "experiment", EXPERIMENTS, "null", ""),
    (["freeze=null"], "freeze", "a stage expression", "None", "freeze=backbone"),
    (
        ["data.batch_size=null"],
        "data.batch_size",
        "a whole number from 1 upward, or auto",
        "None",
        "data.batch_size=32",
    ),
    (["optimizer.lr=null"], "optimizer.lr", "a finite number above 0, or find", "None", "optimizer.lr=1e-3"),
    (["-m", "seed=range(1,1)"], "seed", "at least one value", "range(1,1)", ""),
    (["-m", "hydra.sweeper=null", "seed=1,2"], "hydra.sweep.dir", "a name that can be resolved", "hydra.sweeper", ""),
    (["optimizer={lrr: 1}"], "optimizer.lrr", "a key of the config", "an unknown key", "optimizer.lr"),
    (["donor=fil"], "donor", "one of file, keras, none, pretrained, run", "fil", "donor=file"),
    (["backbone=resnet5"], "backbone", "resnet50", "resnet5", "backbone=resnet50"),
    (["head=[linear,mlp]"], "head", f"one of {HEADS}", "['linear', 'mlp']", "head=linear"),
    (["experiment=solar"], "experiment", EXPERIMENTS, "solar", ""),
    (["+donor=file"], "+donor", "no + before a group", "+donor=file", "donor=file"),
    (["hydra/launcher=basik"], "hydra/launcher", "one of basic", "basik", "hydra/launcher=basic"),
    (["hydra.job.nam=x"], "hydra.job.nam", "a setting that Hydra can compose", "Could not override", ""),
    (["optimizer.lr"], "optimizer.lr", "key=value", "optimizer.lr", "optimizer.lr=…"),
    (["freeze=[a,b"], "freeze", "a value in Hydra's override syntax", "[a,b (", "with every bracket closed"),
    (["donor.rename=[[^a\\.,]]"], "donor.rename", "override syntax", "[[^a", "all of it in quotes, as in"),
    (["donor.path=a=b:c d'"], "donor.path", "a value in Hydra's override syntax", "a=b:c d'", "quotes"),
    (["freeze=layer1,layer2"], "freeze", "one value", "layer1,layer2", "-m to run each, or freeze=[layer1,layer2]"),
    (["donor=pretrained,none"], "donor", "one value", "pretrained,none", "-m to run each"),
    (["--lr", "0.1"], "--lr", "key=value without dashes", "--lr", "optimizer.lr=0.1"),
    (["--batch-size=16"], "--batch-size", "key=value without dashes", "--batch-size=16", "data.batch_size=16"),
    (["seed=1", "-m", "seed=2"], "seed=2", "all key=value together", "a flag in between", "the flags first"),
    (["--config-dir", "nowhere"], "--config-dir", "a folder that exists", "nowhere", ""),
    (["optimizer.lr=-1"], "optimizer.lr", "a finite number above 0, or find", "-1", "optimizer.lr=1e-3"),
    (["data.train=${oc.env:GRAFT_NOWHERE}"], "data.train", "can be resolved", "'GRAFT_NOWHERE' not found", "export"),
    (["data=folder"], "data.root", "a folder with data=folder", "nothing", "data.root=PATH"),
    (["hydra.run.dir=train.py/x"], "hydra.run.dir", "a folder that can be written to", "train.py is a file", "=FOLDER"),
    (["hydra.run.dir=s3://bucket/run"], "hydra.run.dir", "a folder of this machine", "s3://bucket/run", "=FOLDER"),
    (["-m", "hydra.sweep.dir=gs://b/s"], "hydra.sweep.dir", "a folder of this machine", "gs://b/s", "=FOLDER"),
    (["cache.dir=s3://bucket/cache"], "cache.dir", "a folder of this machine", "s3://bucket/cache", ""),
    (["-m", "hydra.sweep.dir=train.py"], "hydra.sweep.dir", "that can be written to", "train.py is a file", "=FOLDER"),
    # each value of a sweep
    (["-m", "optimizer.lr=1e-3,-1e-4"], "optimizer.lr", "a finite number above 0", "-0.0001", "optimizer.lr=1e-3"),
    (["-m", "optimizer.lr=-1,1"], "optimizer.lr", "a finite number above 0, or find", "-1", "optimizer.lr=1e-3"),
    (["-m", "donor=pretrained,fil"], "donor", "one of file, keras", "fil", "donor=file"),
    (["-m", "donor=pretrained,file"], "donor.path", "a file with donor=file", "nothing", "donor.path=PATH"),
    (["-m", "seed=range(-1,3)"], "seed", "a whole number from 0", "-1", "seed=0"),
    (["-m", "head.dropout=range(0,2)"], "head.dropout", "less than 1", "1.0", "head.dropout=0.0"),
    (["-m", "optimizer.lr=interval(0,1)"], "optimizer.lr", "a finite number above 0", "0.0", "optimizer.lr=1e-3"),
    (["-m", "data.batch_size=choice(16,x)"], "data.batch_size", "a whole number", "'x'", "data.batch_size=32"),
    (["-m", "backbone=glob(rasnet*)"], "backbone", "resnet18", "glob(rasnet*)", ""),
]


@pytest.mark.parametrize(("argv", "key", "expected", "received", "remedy"), WRONG, ids=[" ".join(r[0]) for r in WRONG])
def test_a_mistake_is_answered(
    argv: list[str], key: str, expected: str, received: str, remedy: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    fault = only(*argv)
    assert fault.key == key
    assert expected in fault.expected
    assert received in fault.received
    assert remedy in fault.remedy


def test_a_wrong_plus_before_a_wrong_experiment_lists_them() -> None:
    first, second = faults_of("+experiment=none_such")
    assert first.remedy == "experiment=none_such"
    assert second.expected == EXPERIMENTS


def test_all_come_at_once_and_what_hangs_on_them_is_left_out() -> None:
    faults = faults_of(
        "donor=fil", "donor.path=x.pt", "optimizer.lrr=1", "data.batch_size=0", "freeze=[a", "trainer.max_epochs=x"
    )
    assert {fault.key for fault in faults} == {
        "donor",
        "optimizer.lrr",
        "data.batch_size",
        "freeze",
        "trainer.max_epochs",
    }


def test_a_broken_config_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "broken.yaml").write_text("# @package _global_\ndefaults:\n  - override /donor: fil\n")
    (tmp_path / "experiment" / "unread.yaml").write_text("a: [1\n")
    for name, said in (("broken", "Could not find 'donor/fil'"), ("unread", "parsing")):
        fault = only("--config-dir", str(tmp_path), f"experiment={name}")
        assert fault.key == "experiment"
        assert said in fault.received


def test_an_experiment_of_ones_own_is_checked_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\noptimizer:\n  lrr: 1\n  lr: -1\nfreeze: none\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    faults = faults_of("--config-dir", str(tmp_path), "experiment=mine")
    assert {fault.key for fault in faults} == {"optimizer.lrr", "optimizer.lr"}
