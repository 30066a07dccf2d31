"""What conf/ describes, for commands other than training: its backbones, and the config that words compose."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from graft.config.command_line import check_command_line
from graft.config.compose import parse, register
from graft.config.faults import ConfigError, InputError
from graft.config.schema import Config

_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf")
"""Where graft's own conf/ stands: in an installed package, or in the repository."""


def keras_rules(library: str, name: str) -> dict[str, Any]:
    """`backbone.keras` of the preset of this model; empty where there is none."""
    for path in sorted((conf_folder() / "backbone").glob("*.yaml")):
        preset = OmegaConf.load(path)
        if isinstance(preset, DictConfig) and (preset.get("library"), preset.get("name")) == (library, name):
            rules = OmegaConf.to_container(preset.get("keras") or OmegaConf.create(), resolve=True)
            return {str(key): value for key, value in rules.items()} if isinstance(rules, dict) else {}
    return {}


def conf_folder() -> Path:
    """graft's own conf/.

    Raises:
        InputError: the installation is without it.
    """
    for folder in _PLACES:
        if (folder / "config.yaml").is_file():
            return folder
    raise InputError(f"expected conf/config.yaml in {_PACKAGE}, received none; try installing graft again")


def packaged_backbones() -> list[str]:
    """Options of the group backbone whose weights an installed package ships."""
    options: list[str] = []
    for path in sorted((conf_folder() / "backbone").glob("*.yaml")):
        package = OmegaConf.select(OmegaConf.load(path), "published.package")
        if package and find_spec(package) is not None:
            options.append(path.stem)
    return options


def composed(words: Sequence[str]) -> Config:
    """What `python train.py WORDS…` would run.

    Raises:
        ConfigError: every mistake in them.
    """
    conf = conf_folder()
    register()
    if faults := check_command_line(words, conf):
        raise ConfigError(faults)
    with initialize_config_dir(str(conf), version_base="1.3"):
        return parse(compose("config", list(words)))
