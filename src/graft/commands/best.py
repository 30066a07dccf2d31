"""`graft best SWEEP`: prints the command that repeats the best trial, and writes it as an experiment YAML."""

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
    """Path of the new experiment: in the sweep's own config folder if it had one, else in the repository's conf/.

    Raises:
        InputError: there is no such folder, or the experiment exists.
    """
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
    """The trial with that number, or the best one. With several objectives, it is the first on the Pareto front.

    Raises:
        InputError: there is no such complete trial.
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
    """The command that runs the trial alone, with the sweep's flags for the location of its config."""
    return shlex.join([*study.command[:2], *config_flags(study.command[2:]), *trial.overrides])


def result(study: StudyRecord, trial: TrialRecord) -> str:
    return ", ".join(f"{each.metric} {value:.6g}" for each, value in zip(study.objectives, trial.values, strict=True))


def experiment(study: StudyRecord, trial: TrialRecord, name: str) -> str:
    """The trial's overrides as YAML for the config group `experiment`.

    Raises:
        InputError: an override deletes a key, which an experiment cannot do.
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
    """Whether it selects an option of a config group, like data=folder, unlike data={root: x}."""
    return is_group(override.key_or_group) and not isinstance(override.value(), dict)


def _default(override: Override) -> Any:
    """The override as an entry of the defaults list. Another experiment is included; other groups are overridden."""
    if override.key_or_group == "experiment":
        return str(override.value())
    return {f"override /{override.key_or_group}": override.value()}


def nested(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Dotted keys as nested mappings.

    Example:
        >>> nested([("optimizer.lr", 1), ("seed", 2)])
        {'optimizer': {'lr': 1}, 'seed': 2}
    """
    tree: dict[str, Any] = {}
    for key, value in values:
        *above, last = key.split(".")
        place = tree
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


def plain(value: Any) -> Any:
    """The value without the classes of Hydra's parser that record quotes."""
    if isinstance(value, Mapping):
        return {plain(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value.text if hasattr(value, "text") else value
