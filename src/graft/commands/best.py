"""`graft best SWEEP`: the command that repeats the best trial, and the same as an experiment YAML."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from graft.config.faults import InputError
from graft.config.keys import is_group
from graft.sweep.children import config_flags
from graft.sweep.record import StudyRecord, TrialRecord
from graft.system.files import write_text

FILE = "best.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="a sweep's folder")
    parser.add_argument("--trial", type=int, help="this trial instead (of several best ones, say)")
    parser.add_argument("--experiment", metavar="NAME", help="write conf/experiment/NAME.yaml, not SWEEP/best.yaml")


def run(args: argparse.Namespace) -> int:
    from graft.sweep.study import read_study

    study = read_study(args.sweep)
    trial = choose(study, args.trial)
    path = _new_experiment(study, args.experiment) if args.experiment else study.folder / FILE
    write_text(path, experiment(study, trial, args.experiment or path.stem))
    print(command(study, trial))
    print(f"\ntrial {trial.number}: {result(study, trial)}\nwritten: {path}")
    return 0


def _new_experiment(study: StudyRecord, name: str) -> Path:
    """Its file: in the folder of configs that the sweep was given, else in the repository's."""
    flags = config_flags(study.command[2:])
    conf = Path(flags[flags.index("--config-dir") + 1] if "--config-dir" in flags else "conf")
    if not conf.is_dir():
        raise InputError(
            f"--experiment: expected the folder {conf} in {Path.cwd()}, received none; try where the sweep was started,"
            f" or without --experiment, which writes {FILE} into the sweep's folder"
        )
    path = conf / "experiment" / f"{name}.yaml"
    if path.exists():
        raise InputError(f"--experiment: expected a new name, received {name}, as {path} exists")
    path.parent.mkdir(exist_ok=True)
    return path


def choose(study: StudyRecord, number: int | None) -> TrialRecord:
    """The trial of that number, else the best; with several objectives, the first that none other dominates.

    Raises:
        InputError: there is no such trial.
    """
    if number is not None:
        matches = [trial for trial in study.complete if trial.number == number]
        if not matches:
            numbers = ", ".join(str(trial.number) for trial in study.complete)
            raise InputError(
                f"--trial: expected a complete trial ({numbers or 'there is none yet'}), received {number}"
            )
        return matches[0]
    if not study.best:
        raise InputError(f"{study.folder}: expected a complete trial, received none; try the sweep's command again")
    return study.best[0]


def command(study: StudyRecord, trial: TrialRecord) -> str:
    """The sweep's, with the flags that say where its config is, as one run."""
    return shlex.join([*study.command[:2], *config_flags(study.command[2:]), *trial.overrides])


def result(study: StudyRecord, trial: TrialRecord) -> str:
    return ", ".join(f"{each.metric} {value:.6g}" for each, value in zip(study.objectives, trial.values, strict=True))


def experiment(study: StudyRecord, trial: TrialRecord, name: str) -> str:
    """The trial's overrides as a YAML of the group experiment.

    Raises:
        InputError: an override takes a key away, which an experiment cannot.
    """
    overrides = OverridesParser.create().parse_overrides(list(trial.overrides))
    if deletions := [override.input_line for override in overrides if override.is_delete()]:
        raise InputError(f"expected overrides that set something, received {', '.join(map(str, deletions))}")
    chosen = [override for override in overrides if _is_choice(override)]
    values = [override for override in overrides if override not in chosen]
    document: dict[str, Any] = {}
    if chosen:
        document["defaults"] = [_default(override) for override in chosen]
    document.update(nested((override.key_or_group, override.value()) for override in values))
    head = (
        "# @package _global_\n"
        f"# Trial {trial.number} of {len(study.trials)} of the sweep {shlex.join(study.command)}\n"
        f"#   {shlex.join([*study.command[:2], *config_flags(study.command[2:]), f'experiment={name}'])}\n"
        f"# {result(study, trial)}\n"
    )
    return head + yaml.safe_dump(plain(document), sort_keys=False, allow_unicode=True, width=110)


def _is_choice(override: Override) -> bool:
    """data=folder, of a group of the config, and not data={root: x}."""
    return is_group(override.key_or_group) and not isinstance(override.value(), dict)


def _default(override: Override) -> Any:
    """experiment=a within an experiment is that file; any other group is overridden."""
    if override.key_or_group == "experiment":
        return str(override.value())
    return {f"override /{override.key_or_group}": override.value()}


def nested(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """optimizer.lr=1 as {optimizer: {lr: 1}}."""
    tree: dict[str, Any] = {}
    for key, value in values:
        *above, last = key.split(".")
        place = tree
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


def plain(value: Any) -> Any:
    """Without the classes in which Hydra's parser keeps quotes."""
    if isinstance(value, Mapping):
        return {plain(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value.text if hasattr(value, "text") else value
