"""A command line's mistakes, all at once and before torch is imported: syntax, groups, options, keys and values."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from graft.config.compose import examine, unknown_key
from graft.config.examples import EXAMPLES, example
from graft.config.faults import Fault, nearest
from graft.config.hydra_flags import flags_parser
from graft.config.keys import is_group, is_known, nearest_keys, schema_keys
from graft.config.limits import LOCAL_FOLDER, is_url
from graft.config.own_configs import named_folder
from graft.config.several import faults_of_several

# What Hydra answers itself, without running anything.
QUESTIONS = ("--help", "-h", "--hydra-help", "--version", "--shell-completion", "-sc", "--info", "-i")
PLACES = "hydra.searchpath"
FLAGS = (
    *QUESTIONS,
    *("--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r", "--multirun", "-m"),
    *("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--experimental-rerun"),
)


def check_command_line(argv: Sequence[str], conf: Path) -> list[Fault]:
    """Every fault of the command line and of the config that it composes; empty when there is none.

    Args:
        argv: without the program's name.
        conf: the folder that holds config.yaml.
    """
    if any(word.split("=", 1)[0] in QUESTIONS for word in argv):
        return []
    foreign, rest = _foreign_flags(argv)
    arguments, misplaced = flags_parser().parse_known_args(rest)
    if arguments.experimental_rerun is not None:
        received, remedy = (
            arguments.experimental_rerun,
            "the command that the run's report.html and model/model.json show",
        )
        return [Fault(key="--experimental-rerun", expected="a run's own words", received=received, remedy=remedy)]
    foreign += [
        Fault(key=word, expected="all key=value together", received="a flag in between", remedy="the flags first")
        for word in misplaced
    ]
    folder = Path(arguments.config_path).absolute() if arguments.config_path else conf
    named = Path(arguments.config_dir) if arguments.config_dir else None
    if named and not named.is_dir():
        foreign.append(Fault(key="--config-dir", expected="a folder that exists", received=arguments.config_dir))
        named = None
    if arguments.cfg and arguments.multirun:
        foreign.append(Fault(key="--cfg", expected="one run", received="-m", remedy="the same without -m"))
    words = [*arguments.overrides, *misplaced]
    with (
        named_folder(named) if named else nullcontext(),
        initialize_config_dir(str(folder), job_name="train", version_base="1.3"),
    ):
        reading = Reading(
            name=(arguments.config_name or "config").removesuffix(".yaml"),
            loader=GlobalHydra.instance().config_loader(),
            multirun=arguments.multirun or "hydra.mode=MULTIRUN" in arguments.overrides,
            places=[word for word in words if word.lstrip("+").startswith(f"{PLACES}=")],
        )
        reading.read(words)
        reading.judge(writes=arguments.cfg is None)
    return _once(foreign + reading.faults)


@dataclass(slots=True, kw_only=True)
class Reading:
    """What has been made of a command line so far."""

    name: str
    """Of the main config."""
    loader: ConfigLoader
    multirun: bool
    places: list[str]
    """Overrides that say where else configs are."""
    sound: list[Override] = field(default_factory=list)
    """Those whose key and syntax are right."""
    doubtful: set[str] = field(default_factory=set)
    """Groups and keys that something is known against."""
    faults: list[Fault] = field(default_factory=list)

    def read(self, words: Iterable[str]) -> None:
        """Sorts the overrides into sound ones and faults, without composing anything."""
        parser = OverridesParser.create(config_loader=self.loader)
        for word in words:
            try:
                override = parser.parse_overrides([word])[0]
            except HydraException as error:
                self.faults.append(_syntax(word, error))
                self.doubtful.add(word.split("=", 1)[0].lstrip("+~"))
                continue
            mistakes = list(self._faults_of(override))
            self.faults += mistakes
            if mistakes:
                self.doubtful.add(override.key_or_group)
            else:
                self.sound.append(override)

    def judge(self, *, writes: bool) -> None:
        """Composes what is sound, and every value of every sweep one at a time, and gathers the faults."""
        lines = [_first(override) for override in self.sound]
        cfg = self._composed(lines)
        if cfg is None:
            return
        self.faults += self._faults_of_config(cfg)
        if writes:
            self.faults += _folder(cfg, "hydra.sweep.dir" if self.multirun else "hydra.run.dir")
        for at, override in enumerate(self.sound):
            for other in _others(override):
                varied = self._composed([*lines[:at], other, *lines[at + 1 :]])
                if varied is not None:
                    self.faults += self._faults_of_config(varied)

    def _faults_of_config(self, cfg: DictConfig) -> Iterator[Fault]:
        faults = examine(cfg, self.doubtful)[1]
        yield from faults
        if not {"trainer", "trainer.devices", "trainer.num_nodes"} & {*self.doubtful, *(fault.key for fault in faults)}:
            lines = [str(override.input_line) for override in self.sound]
            yield from faults_of_several(cfg, lines, multirun=self.multirun)

    def _composed(self, lines: list[str]) -> DictConfig | None:
        try:
            return compose(self.name, lines, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, YAMLError) as error:
            self.faults += self._blame(lines, error)
        return None

    def _blame(self, lines: list[str], error: Exception) -> Iterator[Fault]:
        """The overrides that fail alone too; else the config files."""
        guilty = False
        for line in lines:
            try:
                compose(self.name, [*self.places, *([line] if line not in self.places else [])])
            except (HydraException, OmegaConfBaseException, YAMLError) as alone:
                guilty = True
                yield Fault(
                    key=line.split("=", 1)[0], expected="a setting that Hydra can compose", received=_gist(alone)
                )
        if not guilty:
            yield Fault(key=self.name, expected="config files that Hydra can compose", received=_gist(error))

    def _faults_of(self, override: Override) -> Iterator[Fault]:
        key = override.key_or_group
        if override.is_sweep_override() and not self.multirun:
            values = override.get_value_string()
            yield Fault(
                key=key, expected="one value", received=values, remedy=f"-m to run each, or {key}=[{values}] for a list"
            )
        elif self._is_group(key):
            yield from self._option_faults(override)
        elif override.is_sweep_override() and next(_values(override), None) is None:
            yield Fault(key=key, expected="at least one value", received=override.get_value_string())
        elif not override.is_hydra_override():
            yield from _key_faults(override)

    def _options(self, group: str, kind: ObjectType) -> list[str]:
        try:
            return self.loader.get_group_options(group, kind, self.name, self.places)
        except (HydraException, OmegaConfBaseException, YAMLError):  # which composing will blame
            return self.loader.get_group_options(group, kind)

    def _is_group(self, key: str) -> bool:
        """Of graft's config, of Hydra's, or of a user's own; only for a key that nobody knows are folders read."""
        own = not (is_known(key) or key.startswith("hydra")) and bool(self._options(key, ObjectType.CONFIG))
        return own or is_group(key) or key.startswith("hydra/")

    def _option_faults(self, override: Override) -> Iterator[Fault]:
        group = override.key_or_group
        if isinstance(override.value(), dict):
            yield from _key_faults(override)
            return
        if override.is_add() and is_group(group):
            line = (override.input_line or "").lstrip("+")
            yield Fault(key=f"+{group}", expected="no + before a group of the config", received=f"+{line}", remedy=line)
        options = self._options(group, ObjectType.CONFIG)
        if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            chosen = [] if any(override.sweep_string_iterator()) else [override.get_value_string()]
        elif override.is_interval_sweep():
            chosen = [override.get_value_string()]
        elif override.is_discrete_sweep():
            chosen = list(override.sweep_string_iterator())
        elif override.value() is None and not override.is_delete():
            chosen = ["null"]
        else:
            chosen = [] if override.value() is None else [str(override.value())]
        for option in chosen:
            if option not in options:
                closest = nearest(option, options)
                sign = "+" if override.is_add() and not is_group(group) else ""
                yield Fault(
                    key=f"{sign}{group}",
                    expected=f"one of {', '.join(options)}",
                    received=option,
                    remedy=" or ".join(f"{sign}{group}={name}" for name in closest),
                )


def _foreign_flags(argv: Sequence[str]) -> tuple[list[Fault], list[str]]:
    """Flags of other tools (--lr 0.1), as faults, and the command line without them."""
    faults: list[Fault] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or any(own.startswith(flag) for own in FLAGS):
            rest.append(word)
            continue
        closest = nearest_keys(flag.lstrip("-"))
        if not equals:
            value = next(words, "") if closest else ""
        remedy = f"{closest[0]}={value or '…'}" if closest else ""
        faults.append(Fault(key=flag, expected="key=value without dashes", received=word, remedy=remedy))
    return faults, rest


def _syntax(word: str, error: HydraException) -> Fault:
    key, equals, value = word.partition("=")
    if not equals:
        is_key = is_known(key.lstrip("+~")) or not nearest_keys(key)
        remedy = f"{key if is_key else nearest_keys(key)[0]}=…"
        return Fault(key=word, expected="key=value", received=word, remedy=remedy)
    has_brackets = set("[]{}()") & set(value)
    remedy = f"'{word}' with every bracket closed" if has_brackets else f"quotes, as in '{key}=\"{value}\"'"
    if has_brackets and key in EXAMPLES:  # a shell takes quotes off, and parts a word at its spaces
        remedy += f", all of it in quotes, as in {example(key)}"
    received = f"{value} ({_gist(error)})"
    return Fault(key=key, expected="a value in Hydra's override syntax", received=received, remedy=remedy)


def _key_faults(override: Override) -> Iterator[Fault]:
    value = override.value()
    for key in _spelled_out(override.key_or_group, value):
        if is_known(key):
            continue
        yield unknown_key(key)


def _spelled_out(key: str, value: object) -> Iterator[str]:
    """optimizer={lr: 1} sets optimizer.lr; below a key whose entries the user names nothing is spelled out."""
    entry = schema_keys().get(key)
    if isinstance(value, dict) and entry is not None and entry.is_group:
        for name, inner in value.items():
            yield from _spelled_out(f"{key}.{name}", inner)
    else:
        yield key


def _first(override: Override) -> str:
    """The override with a sweep's first value alone."""
    return next(_values(override), None) or str(override.input_line)


def _others(override: Override) -> Iterator[str]:
    """The override with each further value of its sweep; of a range, the last one."""
    values = list(_values(override))
    return iter(values[-1:] if override.is_range_sweep() and len(values) > 1 else values[1:])


def _values(override: Override) -> Iterator[str]:
    key = override.get_key_element()
    swept = override.value()
    if isinstance(swept, IntervalSweep):
        yield from (f"{key}={swept.start}", f"{key}={swept.end}")
    elif override.is_sweep_override():
        yield from (f"{key}={value}" for value in override.sweep_string_iterator())


def _folder(cfg: DictConfig, key: str) -> Iterator[Fault]:
    try:
        folder = str(OmegaConf.select(cfg, key))
    except OmegaConfBaseException as error:
        yield Fault(key=key, expected="a name that can be resolved", received=_gist(error), remedy=f"{key}=FOLDER")
        return
    if is_url(folder):
        yield Fault(key=key, expected=LOCAL_FOLDER, received=folder, remedy=f"{key}=FOLDER")
        return
    path = Path(folder).absolute()
    standing = next(place for place in (path, *path.parents) if place.exists())
    if not standing.is_dir():
        received = f"{folder}, where {standing} is a file"
    elif not os.access(standing, os.W_OK | os.X_OK):
        received = f"{folder}, where {standing} cannot be written to"
    else:
        return
    yield Fault(key=key, expected="a folder that can be written to", received=received, remedy=f"{key}=FOLDER")


def _gist(error: Exception) -> str:
    """The first lines of an error that say something, as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^") and not line.startswith("See http")]
    return "; ".join(lines[:2]) or type(error).__name__


def _once(faults: Iterable[Fault]) -> list[Fault]:
    """One fault for a key and value, in the order found."""
    return list({(fault.key, fault.received): fault for fault in faults}.values())
