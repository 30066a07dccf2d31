"""What the tests of single options share: a command line's overrides in, its faults out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from graft.config.compose import parse, register
from graft.config.faults import ConfigError


@pytest.fixture
def faults_of(root: Path) -> Callable[..., dict[str, str]]:
    """faults_of("seed=x") is each faulty key with what is said of it; empty where there is none."""

    def find(*overrides: str) -> dict[str, str]:
        register()
        with initialize_config_dir(str(root / "conf"), version_base="1.3"):
            try:
                parse(compose("config", list(overrides)))
            except ConfigError as error:
                return {fault.key: str(fault) for fault in error.faults}
        return {}

    return find
