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
from graft.files import write_text
from graft.study_record import StudyRecord, TrialRecord

FILE = "best.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="a sweep's folder")
    parser.add_argument("--trial", type=int, help="this trial instead (of several best ones, say)")
    parser.add_argument("--experiment", metavar="NAME", help="write conf/experiment/NAME.yaml, not SWEEP/best.yaml")


def run(args: argparse.Namespace) -> int:
    from graft.sweep.study import read_study

    conf = Path("conf")
    if not conf.is_dir():
        raise InputError(f"expected conf/ in {Path.cwd()}, received none; try `cd` to the graft repository first")
    study = read_study(args.sweep)
    trial = choose(study, args.trial)
    path = conf / "experiment" / f"{args.experiment}.yaml" if args.experiment else study.folder / FILE
    if args.experiment and path.exists():
        raise InputError(f"--experiment: expected a new name, received {args.experiment}, as {path} exists")
    name = args.experiment or path.stem
    write_text(path, experiment(study, trial, name, groups={each.name for each in conf.iterdir() if each.is_dir()}))
    print(command(trial))
    print(f"\ntrial {trial.number}: {result(study, trial)}\nwritten: {path}")
    return 0


def choose(study: StudyRecord, number: int | None) -> TrialRecord:
    """The trial of that number, else the best; with several objectives, the first that none other dominates.

    Raises:
        InputError: there is no such trial.
    """
    if number is not None:
        found = [trial for trial in study.complete if trial.number == number]
        if not found:
            known = ", ".join(str(trial.number) for trial in study.complete)
            raise InputError(f"--trial: expected a complete trial ({known or 'there is none yet'}), received {number}")
        return found[0]
    if not study.best:
        raise InputError(f"{study.folder}: expected a complete trial, received none; try the sweep's command again")
    return study.best[0]


def command(trial: TrialRecord) -> str:
    return shlex.join(["python", "train.py", *trial.overrides])


def result(study: StudyRecord, trial: TrialRecord) -> str:
    return ", ".join(f"{each.metric} {value:.6g}" for each, value in zip(study.objectives, trial.values, strict=True))


def experiment(study: StudyRecord, trial: TrialRecord, name: str, groups: set[str]) -> str:
    """The trial's overrides as a YAML of the group experiment.

    Args:
        groups: the folders of conf/.

    Raises:
        InputError: an override takes a key away, which an experiment cannot.
    """
    overrides = OverridesParser.create().parse_overrides(list(trial.overrides))
    if taken := [override.input_line for override in overrides if override.is_delete()]:
        raise InputError(f"expected overrides that set something, received {', '.join(map(str, taken))}")
    chosen = [override for override in overrides if override.key_or_group in groups]
    values = [override for override in overrides if override not in chosen]
    document: dict[str, Any] = {}
    if chosen:
        document["defaults"] = [_default(override) for override in chosen]
    document.update(nested((override.key_or_group, override.value()) for override in values))
    head = (
        "# @package _global_\n"
        f"# Trial {trial.number} of {len(study.trials)} of the sweep {shlex.join(study.command)}\n"
        f"#   python train.py experiment={name}\n"
        f"# {result(study, trial)}\n"
    )
    return head + yaml.safe_dump(plain(document), sort_keys=False, allow_unicode=True, width=110)


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
