"""A command's typed config, composed from conf/ as train.py composes it."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir

from benchmarks.process import train_script
from graft.config.compose import parse, register
from graft.config.schema import Config


def composed(*words: str) -> Config:
    """What `python train.py WORDS…` would run."""
    conf = Path(train_script()).resolve().parent / "conf"
    register()
    with initialize_config_dir(str(conf), version_base="1.3"):
        return parse(compose("config", list(words)))
