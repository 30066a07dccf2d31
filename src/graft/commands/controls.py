"""`graft controls RUN`: measures how much the transfer helped, by the same config from random weights and as a linear
probe. Both are runs in RUN/controls/, and the run's report shows the differences."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.commands.own_code import add_import_code
from graft.config.examples import quoted
from graft.config.faults import InputError, RunFailed
from graft.config.own_code import refuse_own_code
from graft.config.program import MODULE

if TYPE_CHECKING:
    from graft.report.record import RunRecord
    from graft.report.run_settings import Settings

NAME = "controls"
HELP = "run a run's config from random weights and as a linear probe, and report how much the transfer helped"
ALWAYS = ("mode", "resume")  # keys that are never taken over from the run
BESIDE = (
    "method.l2_sp", "method.distill", "method.distill_temperature", "method.bitfit", "method.lora", "method.lora_alpha",
    "method.lora_targets",
)  # fmt: skip
"""Keys of methods that need the donor's weights or a trained backbone, so a control does without them."""
REPLACED = {
    "random_init": ("donor", "freeze", "freeze_bn", "unfreeze", *BESIDE),
    "linear_probe": ("head", "freeze", "unfreeze", "optimizer.layer_decay", "backbone.drop_path", *BESIDE),
}
"""For each control, the keys and groups that it sets itself."""
CHANGES = {
    "random_init": ("donor=none", "freeze=none", "unfreeze=never"),
    "linear_probe": ("head=linear", "freeze=backbone", "unfreeze=never"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a finished run's folder; relative paths in its command are read from here")
    add_import_code(parser)
    parser.add_argument("--only", choices=sorted(CHANGES), help="one of the two")


def run(args: argparse.Namespace) -> int:
    from graft.report import write_report
    from graft.report.helped import sentence
    from graft.report.record import CONTROLS, read_run

    folder = Path(args.run)
    record = read_run(folder)
    if not record.metrics or not record.config:
        raise InputError(
            f"{folder}: expected a finished run (metrics.json, .hydra/config.yaml), received one without; try another"
        )
    if not args.import_code:
        from graft.report.run_settings import settings_of

        words = {_key(word): word.partition("=")[2] for word in record.overrides}
        for named in (settings_of(record), words):
            refuse_own_code(folder, named)
    for name in [args.only] if args.only else CHANGES:
        _carry_out(record, name, folder / CONTROLS / name)
    record = read_run(folder)
    for name, control in record.controls.items():
        if name in CHANGES:
            print(sentence(record, control, name))
    print(write_report(folder))
    return 0


def _carry_out(record: RunRecord, name: str, folder: Path) -> None:
    from graft.report.run_settings import settings_of

    settings = settings_of(record)
    if name == "linear_probe" and is_linear_probe(settings):
        print("linear_probe: the run is one itself; nothing to run")
        return
    if (folder / "metrics.json").is_file():
        print(f"{name}: already in {folder}")
        return
    words = [*control_overrides(record.overrides, settings, name), f"hydra.run.dir={quoted(folder)}"]
    print(f"{name}: {shlex.join(['graft', 'train', *words])}", flush=True)
    done = subprocess.run([sys.executable, "-m", MODULE, *words], stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RunFailed(
            f"{name}: expected the control to finish, received exit code {done.returncode}; see its message above"
        )


def is_linear_probe(settings: Settings) -> bool:
    kinds = settings.get("head.kind"), settings.get("freeze"), settings.get("unfreeze.kind")
    return kinds == ("linear", "backbone", "never") and settings.get("method.lora") is None


def control_overrides(overrides: Sequence[str], settings: Settings, name: str) -> list[str]:
    """The overrides of a control: those of the run, with the control's own. Keys without an effect are reset.

    Args:
        settings: the run's composed config by dotted key, because keys from an experiment file must be reset too.
        name: the control.
    """
    words = [word for word in overrides if not _is_of(_key(word), (*ALWAYS, *REPLACED[name]))]
    added = [*CHANGES[name], *_taken_back(settings, "unfreeze.")]
    added += [word for key in REPLACED[name] if "." in key for word in _taken_back(settings, key, whole=True)]
    if name == "random_init":
        added += _taken_back(settings, "donor.")
        if settings.get("head.kind") == "stages":  # this head needs frozen blocks
            words = [word for word in words if not _is_of(_key(word), ("head",))]
            added += ["head=linear", *_taken_back(settings, "head.")]
        if settings.get("cache.kind") == "features":  # nothing is frozen, so there are no features to cache
            words = [word for word in words if not _is_of(_key(word), ("cache",))]
            added.append("cache=none")
    else:
        words = [word for word in words if not _is_of(_key(word), ("optimizer.lr_scale",))]
        if "optimizer.lr_scale.head" in settings:
            added.append(f"++optimizer.lr_scale.head={settings['optimizer.lr_scale.head']}")
    return [*words, *added]


def _taken_back(settings: Settings, prefix: str, *, whole: bool = False) -> list[str]:
    """Overrides that reset keys which the run had changed to their defaults.

    Args:
        prefix: prefix of the keys.
        whole: whether `prefix` is the only key.
    """
    from graft.config.keys import leaves

    below = (key for key in leaves() if (key.name == prefix if whole else key.name.startswith(prefix)))
    plain = {key.name: key.default for key in below if not key.is_open}
    changed = [name for name, default in plain.items() if name in settings and settings[name] != default]
    return [
        f"{name}={_override_value(plain[name])}"
        for name in changed
        if name.rpartition(".")[2] != "kind" and not isinstance(plain[name], dict)
    ]


def _override_value(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return quoted(value) if isinstance(value, str) else str(getattr(value, "value", value))


def _key(word: str) -> str:
    return word.split("=", 1)[0].lstrip("+~").partition("@")[0]


def _is_of(key: str, groups: Sequence[str]) -> bool:
    return any(key == group or key.startswith(f"{group}.") for group in groups)
