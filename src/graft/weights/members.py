"""Opens the networks to combine, and checks that they share an architecture and a split of the images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from graft.config.compose import PLACE, stored_config
from graft.config.faults import InputError
from graft.config.own_code import refuse_own_code
from graft.config.schema import DataConfig
from graft.inference.load import open_model
from graft.models.stages import covers
from graft.results.export import RECORD
from graft.results.model import OpenedModel

ALIKE = ("build", "head", "classes", "task", "preprocess")
DIVISION = (
    "kind", "task", "root", "train", "val", "test", "separator", "columns", "val_fraction", "test_fraction",
    "split_seed", "channels",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One of the networks to combine."""

    name: str
    opened: OpenedModel

    @property
    def state(self) -> dict[str, Tensor]:
        """The state dict, detached. It shares memory with the network."""
        return {name: value.detach() for name, value in self.opened.module.state_dict().items()}

    @property
    def run(self) -> Path | None:
        """The folder of the run that the model belongs to, if there is one."""
        folder = self.opened.folder
        runs = (folder, folder.parent)
        return next((run for run in runs if (run / PLACE).is_file()), None)


def open_members(paths: Iterable[str], *, import_code: bool = False) -> list[Member]:
    """Opens networks and checks that they can be averaged.

    Args:
        paths: runs, exported models, or sweeps, of which every run is opened.
        import_code: whether the user's own code may be imported, as in `graft.load`.

    Raises:
        InputError: a path has no model, or the networks differ in architecture, head, classes, task or preprocessing.
    """
    members = [Member(name=str(path), opened=open_model(path, import_code=import_code)) for path in _runs(paths)]
    first = members[0]
    for other in members[1:]:
        differing = [key for key in ALIKE if first.opened.record.get(key) != other.opened.record.get(key)]
        if differing:
            raise InputError(
                f"{other.name}: expected the same {', '.join(differing)} as {first.name}, received "
                f"{_shown(other, differing[0])} instead of {_shown(first, differing[0])}; "
                "weights can be averaged only within one architecture"
            )
    return members


def shared_data(members: Sequence[Member], *, import_code: bool = False) -> tuple[DataConfig, int]:
    """The data config and the seed of the first member that is a run, after checking that all runs split alike.

    Raises:
        InputError: no member is a run, or two runs split the images differently, so that one may have trained on
            validation images of the other.
    """
    pairs = [(member, member.run) for member in members]
    runs = [(member, run) for member, run in pairs if run is not None]
    if not runs:
        raise InputError(
            f"{members[0].name}: expected at least one run's folder, whose config names the images to validate on, "
            "received exported models alone; try the runs that they came from"
        )
    configs = [(member, stored_config(run, needed=("data",))) for member, run in runs]
    first, config = configs[0]
    if not import_code:
        refuse_own_code(first.name, {"data.target": config.data.target})
    for other, another in configs[1:]:
        differing = [key for key in DIVISION if getattr(config.data, key) != getattr(another.data, key)]
        if differing:
            raise InputError(
                f"{other.name}: expected the same data.{differing[0]} as {first.name} "
                f"({getattr(config.data, differing[0])}), received {getattr(another.data, differing[0])}: images that "
                "one validates on may be images that the other was trained on"
            )
    return config.data, config.seed


def shared_trunk(members: Sequence[Member]) -> str | None:
    """The head's module path if the members differ only in the head (a sweep over a frozen backbone); else None."""
    head = members[0].opened.record["head"]["at"]
    first, *others = [member.state for member in members]
    if not isinstance(head, str):
        return None
    trunk = [name for name in first if not covers(head, name)]
    return head if all(torch.equal(first[name], other[name]) for name in trunk for other in others) else None


def _runs(paths: Iterable[str]) -> list[Path]:
    folders: list[Path] = []
    for path in map(Path, paths):
        below = sorted(record.parents[1] for record in path.glob(f"*/model/{RECORD}"))
        is_one = (path / RECORD).is_file() or (path / "model" / RECORD).is_file() or not below
        folders += [path] if is_one else below
    repeated = [path for path in folders if sum(path.resolve() == other.resolve() for other in folders) > 1]
    if repeated:
        raise InputError(f"{repeated[0]}: expected each network once, received it twice")
    return folders


def _shown(member: Member, key: str) -> str:
    return str(member.opened.record.get(key))[:120]
