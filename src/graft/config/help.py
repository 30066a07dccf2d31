"""`python train.py --help` and docs/reference.md, both written from the schema."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeAlias

from omegaconf import OmegaConf

from graft.config.examples import override_value
from graft.config.keys import Key, schema_keys

WIDTH = 116
REPOSITORY = "python train.py"
"""What starts graft in its repository, of which the page speaks."""

Rows: TypeAlias = tuple[tuple[str, str], ...]

OPENING = """\
graft: transfer learning with every tensor accounted for.

A donor (trained weights) is grafted onto a backbone with a new head, and the network is fine-tuned on your images.
First comes the plan: what each tensor gets, what trains when, at which rate. Then the run; its folder, below outputs/,
ends with the weights (model/), the account of every tensor (transfer.json), the metrics and a report (report.html).

  python train.py [group=option] [key=value] …"""

COMMANDS = (
    ("python train.py", "ImageNet weights, the backbone frozen, a new head for pictures of solar cells"),
    ("python train.py mode=plan backbone=resnet50 freeze=layer1-3", "what would happen; nothing is done"),
    ("python train.py data=folder data.root=photos backbone=resnet18", "your images, a folder for each class"),
    ("python train.py donor=file donor.path=encoder.pt backbone=resnet18", "your weights"),
    ("python train.py experiment=solar_cells_finetune", "a recipe of conf/experiment/"),
    ("python train.py -m freeze=layer1,layer1-2 optimizer.lr=1e-4,3e-4", "a sweep: every combination"),
    ("python train.py -m hydra/sweeper=bayes 'optimizer.lr=interval(1e-4, 1e-2)'", "a search by Optuna"),
)

MAIN_KEYS = (
    *("mode", "seed", "backbone.name", "donor.path", "donor.rename", "donor.skip", "donor.adapt", "head.hidden"),
    *("freeze", "freeze_bn", "unfreeze.start", "unfreeze.every"),
    *("optimizer.lr", "optimizer.lr_scale", "optimizer.layer_decay", "optimizer.weight_decay", "scheduler.warmup"),
    *("loss.label_smoothing", "loss.class_weights"),
    *("data.root", "data.image_size", "data.channels", "data.batch_size", "data.num_workers", "data.targets"),
    *("cache.dir", "cache.max_gb", "trainer.max_epochs", "trainer.precision", "checkpoint.every_n_steps", "resume"),
)

EVERYTHING = (
    ("python train.py --cfg job [group=option] …", "every key of a command, with its value"),
    ("docs/reference.md", "every key, with its type, default and meaning"),
    ("python train.py --hydra-help", "the flags: -m, --cfg, --config-dir, …"),
    ('eval "$(python train.py -sc install=bash)"', "tab completion (fish and zsh too)"),
    ("hydra.run.dir=FOLDER", "the run's folder; its checkpoint there is resumed"),
)


def help_text(conf: Path, program: str = REPOSITORY) -> str:
    """The page, for the groups and options that the folder conf holds.

    Args:
        program: what starts graft.
    """
    defaults = default_options(conf)
    sections = (
        OPENING.replace(REPOSITORY, program),
        _table("What people use most", _started_by(program, COMMANDS)),
        _headed("Groups and their options (the default in brackets)", _groups(conf, defaults)),
        _headed("Main keys", _keys(_default_values(conf, defaults))),
        _table("To see everything", _started_by(program, EVERYTHING)),
    )
    return "\n\n".join(sections)


def groups_of(conf: Path) -> dict[str, list[str]]:
    """Each group of conf and its options, the schema's order first."""
    order = [name for name, key in schema_keys().items() if key.is_group]
    folders = [folder for folder in conf.iterdir() if folder.is_dir() and folder.name != "hydra"]
    folders.sort(key=lambda folder: (order.index(folder.name) if folder.name in order else len(order), folder.name))
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def default_options(conf: Path) -> dict[str, str]:
    """Group to option, as the defaults list of config.yaml has them."""
    entries: list[Any] = [
        entry for entry in OmegaConf.load(conf / "config.yaml").defaults if not isinstance(entry, str)
    ]
    return {str(group): str(option) for entry in entries for group, option in entry.items() if option is not None}


def _default_values(conf: Path, defaults: Mapping[str, str]) -> dict[str, Any]:
    """What the default options set, by full key."""
    values: dict[str, Any] = {}
    for group, option in defaults.items():
        if group in schema_keys():
            for name, value in OmegaConf.load(conf / group / f"{option}.yaml").items():
                values[f"{group}.{name}"] = value
    return values


def _groups(conf: Path, defaults: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for group, options in groups_of(conf).items():
        key = schema_keys().get(group)
        listed = ", ".join(f"[{option}]" if defaults.get(group) == option else option for option in options)
        yield group, f"{key.doc if key else 'Recipes: several groups and keys set together.'} {listed}"


def _keys(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in MAIN_KEYS:
        key = schema_keys()[name]
        default = values.get(name, key.default)
        yield f"{name}={'' if default is MISSING else override_value(default)}", key.doc


def _started_by(program: str, rows: Rows) -> Rows:
    return tuple((left.replace(REPOSITORY, program), right) for left, right in rows)


def _headed(title: str, rows: Iterator[tuple[str, str]]) -> str:
    return f"{title}\n" + "\n".join(_row(left, right, 30) for left, right in rows)


def _table(title: str, rows: Rows) -> str:
    return f"{title}\n" + "\n".join(_row(left, right, max(len(left) for left, _ in rows) + 4) for left, right in rows)


def _row(left: str, right: str, column: int) -> str:
    """Right wrapped into its column; left in front of it."""
    lines = textwrap.wrap(right, WIDTH - column) or [""]
    gap = "" if len(left) + 4 <= column else "\n"
    first = f"  {left}" + (f"\n{' ' * column}" if gap else " " * (column - len(left) - 2))
    return (first + f"\n{' ' * column}".join(lines)).rstrip()


REFERENCE_OPENING = """\
# Every key

Written from the schema by `python scripts/write_reference.py`; a test fails when it is stale. A command's values are
shown by `python train.py --cfg job …`. A key whose default is *set by the option* takes its value from the file
`conf/GROUP/OPTION.yaml` that `GROUP=OPTION` names."""


def reference(conf: Path) -> str:
    """The page, for the schema and the groups that the folder conf holds."""
    options = groups_of(conf)
    return "\n\n".join([REFERENCE_OPENING, *_sections(options)]) + "\n"


def _sections(options: dict[str, list[str]]) -> Iterator[str]:
    keys = list(schema_keys().values())
    top = [key for key in keys if "." not in key.name]
    yield "## A run\n\n" + _key_table([key for key in top if not key.is_group])
    for group in (key for key in top if key.is_group):
        below = [key for key in keys if key.name.startswith(f"{group.name}.") and not key.is_group]
        yield f"## {group.name}\n\n{group.doc}{_options(options.get(group.name, []))}\n\n{_key_table(below)}"
    if "experiment" in options:
        yield f"## experiment\n\nSeveral groups and keys set together.{_options(options['experiment'])}"


def _options(names: list[str]) -> str:
    return f" Options: {', '.join(f'`{name}`' for name in names)}." if names else ""


def _key_table(keys: list[Key]) -> str:
    return "\n".join(
        ["| key | what is expected | default | meaning |", "| --- | --- | --- | --- |", *map(_key_row, keys)]
    )


def _key_row(key: Key) -> str:
    default = "*set by the option*" if key.default is MISSING else f"`{override_value(key.default) or '(empty)'}`"
    cells = (f"`{key.name}`", key.expected, default, " ".join(key.doc.split()))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
