"""What conf/ describes, for commands other than training: its backbones, and the config that words compose."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from graft.config.command_line import check_command_line
from graft.config.compose import parse, register
from graft.config.data_kind import with_data_kind
from graft.config.faults import ConfigError
from graft.config.own_configs import conf_folder
from graft.config.schema import Config


def keras_rules(library: str, name: str) -> dict[str, Any]:
    """`backbone.keras` of the preset of this model; empty where there is none."""
    for path in sorted((conf_folder() / "backbone").glob("*.yaml")):
        preset = OmegaConf.load(path)
        if isinstance(preset, DictConfig) and (preset.get("library"), preset.get("name")) == (library, name):
            rules = OmegaConf.to_container(preset.get("keras") or OmegaConf.create(), resolve=True)
            return {str(key): value for key, value in rules.items()} if isinstance(rules, dict) else {}
    return {}


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
    conf, words = conf_folder(), with_data_kind(words)
    register()
    if faults := check_command_line(words, conf):
        raise ConfigError(faults)
    with initialize_config_dir(str(conf), version_base="1.3"):
        return parse(compose("config", list(words)))
