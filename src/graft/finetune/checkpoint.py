"""Checkpoint files: written completely or not at all, opened without running code, with optimizer state by parameter
name."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import nn
from typing_extensions import override

from graft.config.faults import InputError, RunFailed
from graft.finetune.groups import Group
from graft.system.documents import open_regular
from graft.system.files import atomic_path, remove_leftovers

FOLDER = "checkpoints"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
BEST = "best.ckpt"
# Shaped as their parameter in every optimizer; what else one keeps (factored or preconditioned) has shapes of its own.
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
STORABLE = frozenset({str, int, float, bool, type(None), torch.Tensor, nn.Parameter})


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """The checkpoint on the CPU, which contains tensors and primitives only. Nothing in the file is executed.

    Raises:
        InputError: there is no such file, it is damaged, or it contains anything else.
    """
    try:
        with open_regular(path) as file:
            _check_sums(file)
            file.seek(0)
            contents = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"resume: expected a checkpoint, received {path}, which does not exist") from error
    except pickle.UnpicklingError as error:  # torch's own message recommends to run what is in the file
        reason = "it contains more than tensors and plain values, which is all that is loaded"
        raise _unreadable(path, reason) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _unreadable(path, reason) from error
    if not isinstance(contents, dict):
        raise _unreadable(path, f"it holds a {type(contents).__name__}")
    return cast("dict[str, Any]", contents)


def _unreadable(path: Path | str, reason: str) -> InputError:
    return InputError(
        f"resume: expected a checkpoint of graft's, received {path}, which cannot be read ({reason}); try resume=never"
    )


def _check_sums(file: IO[bytes]) -> None:
    """Verifies the checksums in the file, which torch writes but does not check."""
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} in it does not match its checksum")


class CheckpointFile(CheckpointIO):
    """Lightning's interface to checkpoints on disk, or in memory until there is time to write them.

    Args:
        path: path of the checkpoint to resume from, which has already been read for inspection.
        take: returns its contents.
    """

    def __init__(self, path: Path | None = None, take: Callable[[], dict[str, Any]] | None = None) -> None:
        self._path, self._take = path, take
        self._still: Collection[str] | None = None
        self._snapshot: tuple[dict[str, Any], Path] | None = None

    @contextmanager
    def in_memory(self, still: Collection[str] = ()) -> Generator[None]:
        """Within this context, saving a checkpoint makes a copy in memory, until `write_snapshot` or `drop_snapshot`.

        Args:
            still: names in its state_dict that never change and need no copy.
        """
        self._still = still
        try:
            yield
        finally:
            self._still = None

    def write_snapshot(self) -> None:
        """Writes the checkpoint in memory to disk, if there is one."""
        if self._snapshot is not None:
            checkpoint, path = self._snapshot
            self._write(checkpoint, path)
            self._snapshot = None

    def drop_snapshot(self) -> None:
        """Discards the checkpoint in memory, which is outdated."""
        self._snapshot = None

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        foreign = _foreign(checkpoint, "")
        assert foreign is None, f"a checkpoint holds tensors and primitives only, and {foreign}"
        if self._still is not None:
            still = {name: value for name, value in checkpoint["state_dict"].items() if name in self._still}
            self._snapshot = _copy(checkpoint, {id(value) for value in still.values()}), Path(path)
        else:
            self._write(checkpoint, Path(path))

    def _write(self, checkpoint: dict[str, Any], target: Path) -> None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise write_failure(target, error) from error

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if self._take is not None and self._path == Path(path):
            return self._take()
        return read_checkpoint(path)

    @override
    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def write_failure(path: Path, error: Exception) -> RunFailed:
    """The error for a full or read-only disk: which file it was, and which checkpoint is intact."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
    folder = path.parent if path.parent.name == FOLDER else path.parent / FOLDER
    last = next((folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()), None)
    rest = f"; {last.name}, written before, is intact" if last else ""
    free = shutil.disk_usage(path.parent).free / 1e6 if path.parent.exists() else 0.0
    return RunFailed(
        f"{path} could not be written ({reason}; {free:,.0f} MB are free there){rest}; make room, and the same command"
        " goes on"
    )


def give_name(source: Path, name: str) -> None:
    """Gives a file that is never written again another name in the same folder: a hard link if the disk supports it.

    Raises:
        RunFailed: the disk is full or read-only.
    """
    target = source.with_name(name)
    try:
        with atomic_path(target) as temporary:
            try:
                temporary.hardlink_to(source)
            except OSError:
                shutil.copyfile(source, temporary)
    except OSError as error:
        raise write_failure(target, error) from error


def clear(folder: Path, names: Iterable[str] = ()) -> None:
    """Removes the remains of interrupted writes, and the named files."""
    remove_leftovers(folder, r".*\.ckpt")
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _copy(value: Any, still: Collection[int] = ()) -> Any:
    """A copy with its own tensors on the CPU, except for those with these ids."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=id(value) not in still)
    if isinstance(value, dict):
        return type(value)((key, _copy(inner, still)) for key, inner in value.items())
    if isinstance(value, list | tuple | set):
        return type(value)(_copy(inner, still) for inner in value)
    return value


def _foreign(value: Any, where: str) -> str | None:
    """The first value that is neither a tensor nor a primitive, with its place; None if there is none."""
    if type(value) in STORABLE:
        return None
    if isinstance(value, Mapping):
        inner_values = [
            pair for key, inner in value.items() for pair in ((key, f"{where} key"), (inner, f"{where}/{key}"))
        ]
    elif isinstance(value, list | tuple | set | frozenset):
        inner_values = [(inner, where) for inner in value]
    else:
        return f"{where} is a {type(value).__name__}"
    return next((foreign for inner, place in inner_values if (foreign := _foreign(inner, place))), None)


def state_by_name(state: Mapping[str, Any], groups: Sequence[Group]) -> dict[str, Any]:
    """An optimizer's state dict with parameter names instead of torch's positions."""
    names = _positions(state["param_groups"], groups)
    param_groups = [
        {**{key: value for key, value in saved.items() if key != "params"}, "params": list(group.names)}
        for saved, group in zip(state["param_groups"], groups, strict=True)
    ]
    return {
        "state": {names[position]: value for position, value in state["state"].items()},
        "param_groups": param_groups,
    }


def state_by_position(state: Mapping[str, Any], groups: Sequence[Group], module: nn.Module) -> dict[str, Any]:
    """The inverse of `state_by_name` for these groups.

    Raises:
        InputError: the groups differ from the checkpoint's, or a tensor's shape differs from its parameter's.
    """
    saved = {group["name"]: group for group in state["param_groups"]}
    expected = {group.name: list(group.names) for group in groups}
    received = {name: list(group["params"]) for name, group in saved.items()}
    if expected != received:
        differing = sorted(name for name in {*expected, *received} if expected.get(name) != received.get(name))
        raise InputError(
            f"resume: expected the checkpoint's parameter groups, received others ({', '.join(differing)} differ);"
            " try the configuration that wrote it, or resume=never"
        )
    position_of = {name: position for position, name in enumerate(name for group in groups for name in group.names)}
    if unknown := sorted(set(state["state"]) - set(position_of)):
        raise InputError(
            f"resume: expected optimizer state of this network's parameters, received that of {', '.join(unknown[:5])};"
            " try resume=never"
        )
    shapes = {name: parameter.shape for name, parameter in module.named_parameters(remove_duplicate=False)}
    for name, values in state["state"].items():
        for key in MOMENTS:
            value = values.get(key)
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != shapes[name]:
                raise InputError(
                    f"resume: expected {key} of {name} in shape {tuple(shapes[name])}, received"
                    f" {tuple(value.shape)}; try resume=never"
                )
    param_groups = [{**saved[group.name], "params": [position_of[name] for name in group.names]} for group in groups]
    return {
        "state": {position_of[name]: value for name, value in state["state"].items()},
        "param_groups": param_groups,
    }


def check_weights(saved: Mapping[str, torch.Tensor], present: Mapping[str, torch.Tensor]) -> None:
    """Raises InputError with the differences, unless both have the same names and shapes."""
    lacking, foreign = sorted(set(present) - set(saved)), sorted(set(saved) - set(present))
    other = [name for name in present if name in saved and saved[name].shape != present[name].shape]
    if not (lacking or foreign or other):
        return
    differences = [
        f"{name} in shape {tuple(present[name].shape)}, not {tuple(saved[name].shape)}" for name in other[:5]
    ]
    differences += [f"{name}, which it lacks" for name in lacking[:5]] + [f"no {name}" for name in foreign[:5]]
    count = len(lacking) + len(foreign) + len(other)
    raise InputError(
        f"resume: expected a checkpoint of this network, received one of another ({count} tensors differ):\n  "
        + "\n  ".join(differences)
        + "\ntry the configuration that wrote it, resume=never, or another hydra.run.dir"
    )


def _positions(param_groups: Sequence[Mapping[str, Any]], groups: Sequence[Group]) -> dict[int, str]:
    return {
        position: name
        for saved, group in zip(param_groups, groups, strict=True)
        for position, name in zip(saved["params"], group.names, strict=True)
    }
