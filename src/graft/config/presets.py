"""The backbones that conf/backbone describes, for commands that do not compose a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

_CONF = Path(__file__).resolve().parents[3] / "conf"


def keras_rules(library: str, name: str) -> dict[str, Any]:
    """`backbone.keras` of the preset of this model; empty where there is none, or no conf/ here or beside graft."""
    for folder in (Path("conf"), _CONF):
        for path in sorted((folder / "backbone").glob("*.yaml")):
            preset = OmegaConf.load(path)
            if isinstance(preset, DictConfig) and (preset.get("library"), preset.get("name")) == (library, name):
                rules = OmegaConf.to_container(preset.get("keras") or OmegaConf.create(), resolve=True)
                return {str(key): value for key, value in rules.items()} if isinstance(rules, dict) else {}
    return {}
