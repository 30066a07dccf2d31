"""Every YAML below conf/ composes with the rest, becomes typed values, and says what it is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from graft.config.compose import parse, register
from graft.config.help import groups_of
from graft.config.keys import schema_keys
from graft.config.schema import Config

CONF = Path(__file__).resolve().parents[2] / "conf"
FILES = sorted(file.relative_to(CONF).with_suffix("") for file in CONF.rglob("*.yaml"))
OPTIONS = [file for file in FILES if len(file.parts) == 2]
SCHEMA_GROUPS = {name for name, key in schema_keys().items() if key.is_group and "." not in name}

# What an option needs beside it, because only its user can know it.
NEEDED = {
    "augment/custom": ["augment.target=torchvision.transforms.v2:RandomInvert"],
    "backbone/custom": ["backbone.target=torch:nn.Linear", "data.image_size=32", "donor=none", "freeze=none"],
    "backbone/timm": ["backbone.name=resnet18"],
    "backbone/torchvision": ["backbone.name=resnet18"],
    "data/custom": ["data.target=tests.own_data:rows"],
    "data/csv": ["data.root=pyproject.toml"],
    "data/folder": ["data.root=conf"],
    "donor/file": ["donor.path=pyproject.toml"],
    "donor/keras": ["donor.path=pyproject.toml"],
    "donor/none": ["freeze=none"],
    "donor/run": ["donor.path=conf"],
    "head/custom": ["head.target=torch.nn.Linear"],
    "loss/custom": ["loss.target=torch.nn.functional:cross_entropy"],
    "optimizer/custom": ["optimizer.target=torch.optim:NAdam"],
    "optimizer/timm": ["optimizer.name=lamb"],
    "scheduler/custom": ["scheduler.target=math:cos"],
    "unfreeze/custom": ["unfreeze.target=tests.own_schedules:halves"],
    "unfreeze/at": ["unfreeze.table={2 epochs: none, 60%: backbone}"],
}


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONF.parent)


@pytest.fixture(scope="module", autouse=True)
def hydra_here() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def test_the_glob_found_the_groups() -> None:
    assert {"config", "donor/file", "hydra/job_logging/quiet"} <= {str(file) for file in FILES}
    assert {option.parts[0] for option in OPTIONS} == set(groups_of(CONF))
    assert set(groups_of(CONF)) == (SCHEMA_GROUPS - {"checkpoint", "method", "results"}) | {"experiment"}


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_each_option_becomes_typed_values(option: Path) -> None:
    group, name = option.parts
    config = parse(compose("config", [f"{group}={name}", *NEEDED.get(str(option), [])]))
    assert isinstance(config, Config)
    kind = getattr(getattr(config, group, None), "kind", None)
    assert kind is None or kind.value == name


@pytest.mark.parametrize("option", sorted(NEEDED))
def test_what_an_option_needs_is_asked_for(option: str) -> None:
    group, name = option.split("/")
    key = NEEDED[option][0].split("=")[0]
    with pytest.raises(ValueError, match=rf"(?m)^{key}: expected "):
        parse(compose("config", [f"{group}={name}"]))


@pytest.mark.parametrize("file", [file for file in FILES if file.parts[0] == "hydra"], ids=str)
def test_each_option_of_hydras_groups_composes(file: Path) -> None:
    cfg = compose("config", [f"{file.parent}={file.name}"], return_hydra_config=True)
    assert isinstance(cfg.hydra[file.parent.name], DictConfig)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_each_file_is_headed_by_what_it_is_and_its_command(file: Path) -> None:
    lines = (CONF / file).with_suffix(".yaml").read_text(encoding="utf-8").splitlines()
    header = [line for line in takewhile(lambda line: line.startswith("#"), lines) if not line.startswith("# @package")]
    assert len(header) >= 2, f"{file}: a line on what it is and a line with its command"
    assert any("python train.py" in line for line in header)


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_each_header_names_its_own_option(option: Path) -> None:
    text = (CONF / option).with_suffix(".yaml").read_text(encoding="utf-8")
    assert f"{option.parts[0]}={option.parts[1]}" in text


@pytest.mark.parametrize(
    ("words", "sweeper", "logging"),
    [((), "grid", "quiet"), (("experiment=search",), "bayes", "default"),
     (("experiment=search", "hydra/job_logging=quiet"), "bayes", "quiet")],
)  # fmt: skip
def test_an_experiment_may_choose_among_hydras_own_groups(
    tmp_path: Path, words: tuple[str, ...], sweeper: str, logging: str
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "search.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /hydra/sweeper: bayes\n  - override /hydra/job_logging: default\n"
    )
    cfg = compose("config", [f"hydra.searchpath=[file://{tmp_path}]", *words], return_hydra_config=True)
    chosen = cfg.hydra.runtime.choices
    assert (chosen["hydra/sweeper"], chosen["hydra/job_logging"]) == (sweeper, logging)
    assert (cfg.hydra.sweeper.get("n_trials") == 20) is (sweeper == "bayes")


def test_the_default_command_is_imagenet_weights_on_solar_cells_with_a_frozen_backbone() -> None:
    config = parse(compose("config"))
    assert config.backbone.name == "tf_efficientnet_lite0"
    assert (config.donor.kind.value, config.head.kind.value) == ("pretrained", "linear")
    assert (config.data.kind.value, config.freeze, config.unfreeze.kind.value) == ("solar_cells", "backbone", "never")
    assert (config.mode.value, config.seed, config.resume) == ("train", 0, "auto")
