"""The config of a run that is done, from the copy that Hydra left in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from graft.config.compose import examine
from graft.config.faults import ConfigError, InputError
from graft.config.schema import Config

PLACE = Path(".hydra") / "config.yaml"


def stored_config(run: Path, *, needed: tuple[str, ...] = ()) -> Config:
    """What a run was configured with; a key that is newer than the run has its default.

    Args:
        needed: the groups that the caller reads; faults elsewhere (a donor that has gone, say) do not matter then.

    Raises:
        InputError: no config there, or one that this version does not understand.
    """
    path = run / PLACE
    if not path.is_file():
        raise InputError(
            f"{run}: expected a run's folder with {PLACE} in it, received {'one' if run.is_dir() else 'a path'} "
            "without; try the folder that training named at its end"
        )
    try:
        loaded = OmegaConf.load(path)
        if not isinstance(loaded, DictConfig):
            raise InputError(f"{path}: expected a config, received a list; try the run again")
        typed, faults = examine(loaded)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{path}: expected a config that can be read, received {error}; try the run again") from error
    matter = [fault for fault in faults if not needed or fault.key.split(".")[0] in needed]
    if matter:
        raise ConfigError(matter)
    if not needed:
        return cast(Config, OmegaConf.to_object(typed))
    sections: dict[str, Any] = {name: OmegaConf.to_object(typed[name]) for name in needed}
    return Config(seed=typed.seed, **sections)
