"""From the config that Hydra composed, or that a run left in its folder, to typed values."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import MISSING
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast, get_type_hints

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from graft.config.examples import example
from graft.config.faults import ConfigError, Fault, InputError, nearest
from graft.config.keys import nearest_keys, schema_keys
from graft.config.limits import LIMITS, beyond_limits
from graft.config.processor_images import fill_from_processor
from graft.config.program import program
from graft.config.rules import clashes
from graft.config.schema import Config
from graft.config.values import form_of, values_of

T = TypeVar("T")
Composed: TypeAlias = DictConfig
"""What Hydra makes of YAML and a command line, before it is checked and typed."""


def register() -> None:
    """Makes every key of the schema, with its default, the ground that conf/config.yaml composes on."""
    ConfigStore.instance().store("graft_schema", schema_node())
    register_sweep_name()


def schema_node() -> DictConfig:
    """The schema as plain values: types are checked once, by `parse`, which can then report every fault together."""
    values: dict[str, Any] = {}
    for key in schema_keys().values():
        *above, name = key.name.split(".")
        section = values
        for each in above:
            section = section[each]
        section[name] = {} if key.is_group else _plain(key.default)
    node = OmegaConf.create(values)
    for key in schema_keys().values():
        if key.is_open:
            OmegaConf.set_struct(OmegaConf.select(node, key.name), False)
    return node


def _plain(default: Any) -> Any:
    if default is MISSING:
        return "???"
    return default.value if isinstance(default, Enum) else default


def parse(cfg: DictConfig) -> Config:
    """The composed config as typed values.

    Raises:
        ConfigError: with every fault that can be found without building anything.
    """
    typed, faults = examine(cfg)
    if faults:
        raise ConfigError(faults)
    config = _values(Config, typed)
    fill_from_processor(config.donor, config.backbone.published.preprocess)
    return config


def examine(cfg: DictConfig, doubtful: Collection[str] = ()) -> tuple[DictConfig, list[Fault]]:
    """The typed config as far as it goes, and its faults.

    Args:
        doubtful: groups and keys that are known to be wrong; what depends on them is not judged.
    """
    typed = OmegaConf.structured(form_of(Config))
    faults = list(_fill(typed, cfg, ""))
    faults += _unset(typed, {*doubtful, *(fault.key for fault in faults)})
    values = dict(_sound(typed, {*doubtful, *(fault.key for fault in faults)}))
    limited = beyond_limits(values)
    for fault in limited:
        del values[fault.key]
    return typed, faults + limited + clashes(values)


def _fill(typed: DictConfig, cfg: DictConfig, prefix: str) -> Iterator[Fault]:
    """Copies each leaf of cfg that has a place and the right type; yields the faults of the others."""
    for name in cfg:
        full = f"{prefix}{name}"
        key = schema_keys().get(full)
        if full == "hydra":
            continue
        if key is None:
            yield unknown_key(full)
            continue
        try:
            if OmegaConf.is_missing(cfg, name):
                continue
            value = cfg[name]
        except OmegaConfBaseException as error:
            yield _unresolved(full, error)
            continue
        if not key.is_group:
            yield from _assign(typed, str(name), value, full)
        elif isinstance(value, DictConfig):
            yield from _fill(typed[name], value, f"{full}.")
        else:
            yield Fault(key=full, expected="a group of keys", received=repr(value), remedy=f"{full}.KEY=VALUE")


def _assign(typed: DictConfig, name: str, value: Any, full: str) -> Iterator[Fault]:
    plain = value
    try:
        if OmegaConf.is_config(value):
            plain = _with_text_keys(OmegaConf.to_container(value, resolve=True))
        typed[name] = plain
    except OmegaConfBaseException as error:
        if "interpolation" in type(error).__name__.lower():
            yield _unresolved(full, error)
            return
        limit = LIMITS.get(full)
        expected = limit.expected if limit else schema_keys()[full].expected
        yield Fault(key=full, expected=expected, received=repr(plain), remedy=_instead(full, plain))


def _with_text_keys(value: Any) -> Any:
    """unfreeze.table={3: none} means the text "3", as every key of a mapping does."""
    return {str(name): entry for name, entry in value.items()} if isinstance(value, dict) else value


def _instead(full: str, value: Any) -> str:
    closest = nearest(str(value), schema_keys()[full].choices, count=1)
    return f"{full}={closest[0]}" if closest else example(full)


def unknown_key(full: str) -> Fault:
    """A key that the schema does not have, and the ones that may be meant."""
    closest = (f"{name}=OPTION" if schema_keys()[name].is_group else name for name in nearest_keys(full))
    remedy = " or ".join(closest) or f"{shlex.join(program())} --help, which lists them"
    return Fault(key=full, expected="a key of the config", received="an unknown key", remedy=remedy)


def _unresolved(full: str, error: OmegaConfBaseException) -> Fault:
    reason = str(error).splitlines()[0]
    remedy = ""
    if "Environment variable" in reason:
        variable = reason.split("'")[1]
        remedy = f"export {variable}=…, or ${{oc.env:{variable},DEFAULT}}"
    return Fault(key=full, expected="a value that can be resolved", received=reason, remedy=remedy)


def _unset(typed: DictConfig, doubtful: Collection[str]) -> list[Fault]:
    """Keys that have no default and that nothing has set."""
    faults: list[Fault] = []
    for key in schema_keys().values():
        group = key.name.split(".", 1)[0]
        if key.is_group or key.default is not MISSING or {key.name, group} & set(doubtful):
            continue
        parent, _, name = key.name.rpartition(".")
        if not OmegaConf.is_missing(OmegaConf.select(typed, parent), name):
            continue
        remedy = f"{group}=OPTION" if name == "kind" else example(key.name) or f"{key.name}=…"
        faults.append(
            Fault(key=key.name, expected=f"{key.expected} ({key.doc.rstrip('.')})", received="nothing", remedy=remedy)
        )
    return faults


def _sound(typed: DictConfig, doubtful: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Each leaf's full key and value, of those that nothing is known against."""
    for key in schema_keys().values():
        itself_and_above = (key.name.rsplit(".", count)[0] for count in range(key.name.count(".") + 1))
        if key.is_group or any(name in doubtful for name in itself_and_above):
            continue
        parent, _, name = key.name.rpartition(".")
        section = OmegaConf.select(typed, parent) if parent else typed
        if not OmegaConf.is_missing(section, name):
            value = section[name]
            yield key.name, OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


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
        _check_document(path)
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
        return _values(Config, typed)
    types = get_type_hints(Config)
    sections: dict[str, Any] = {name: _values(types[name], typed[name], name) for name in needed}
    return Config(seed=typed.seed, **sections)


MOST_BYTES, MOST_DEPTH = 1 << 22, 40


def _check_document(path: Path) -> None:
    """Refuses what would take more time or memory to read than any config of a run.

    Raises:
        InputError: the file is large, nested deeply, or has aliases, which can stand for more than memory holds.
        YAMLError: it is no YAML.
    """
    if (size := path.stat().st_size) > MOST_BYTES:
        raise InputError(f"{path}: expected a config of at most {MOST_BYTES:,} bytes, received {size:,}")
    depth = 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for event in yaml.parse(file, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise InputError(f"{path}: expected a config without aliases, received one ({event.anchor})")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise InputError(f"{path}: expected values nested at most {MOST_DEPTH} deep, received more")


def section_of(section: type[T], content: Any) -> T:
    """One section's values, of what a file of conf/ has for it."""
    return _values(section, cast(DictConfig, OmegaConf.merge(OmegaConf.structured(form_of(section)), content)))


def _values(section: type[T], checked: DictConfig, key: str = "") -> T:
    return values_of(section, cast(dict[str, Any], OmegaConf.to_container(checked, throw_on_missing=True)), key)


LONGEST = 60


def sweep_name(overrides: Iterable[str], sweeper: str) -> str:
    """What is varied, to read, and a hash of everything that was typed, in whatever order.

    Overrides of Hydra itself (more trials, another launcher) are left out: with them it is the same sweep still.
    """
    lines = sorted(str(override) for override in overrides)
    varied = [line.partition("=")[0].lstrip("+").rpartition(".")[2] for line in lines if re.search(r"[,(]", line)]
    digest = hashlib.sha256("\n".join([sweeper, *lines]).encode()).hexdigest()[:8]
    words = re.sub(r"[^\w+]", "_", "+".join(varied))[:LONGEST]
    return f"{words}-{digest}" if words else digest


def register_sweep_name() -> None:
    """Makes ${sweep_name:…} known to the config."""
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
