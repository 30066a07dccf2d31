"""HDF5 as untrusted input: only numeric datasets inside this one file, none larger than the file can account for."""

from __future__ import annotations

import io
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graft.config.faults import InputError
from graft.transfer.donors.archive import EXPANSION, FLOOR
from graft.transfer.donors.sniff import DAMAGE, first_line, refused

_SLACK = 64 * 2**20
_ELSEWHERE = "everything to lie in this one file"


@dataclass(frozen=True, slots=True)
class Stored:
    """A dataset's shape and type, before anything is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Hdf5:
    """An open file: its datasets by path, and the attributes of its groups.

    Attributes:
        datasets: every numeric dataset by its path, in the file's order.
        others: paths of datasets that are not numeric.
    """

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        """Opens `path`, or `content` that was extracted from it.

        Raises:
            InputError: the file is damaged, refers to other files, or claims more numbers than it can hold.
        """
        try:
            import h5py
        except ImportError as error:
            raise InputError(
                f"donor {path}: expected h5py, which reads Keras files, received none installed; "
                "try: pip install 'graft-transfer[keras]'"
            ) from error
        self.path = path
        self._h5py: Any = h5py
        self._size = path.stat().st_size if content is None else len(content)
        self.datasets: dict[str, Stored] = {}
        self.others: list[str] = []
        with self._reading("the file"), limited_memory(2 * self._size):
            self._file: Any = h5py.File(path if content is None else io.BytesIO(content), "r")
        with self._reading("its structure"), limited_memory(2 * self._size):
            self._walk()

    def close(self) -> None:
        self._file.close()

    def read(self, name: str) -> Tensor:
        """The values of a dataset in Keras' own layout."""
        stored = self.datasets[name]
        with self._reading(name):
            array = np.asarray(self._file[name][()])
            if stored.dtype is torch.bfloat16:
                return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).reshape(stored.shape)
            native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
            return torch.from_numpy(native).reshape(stored.shape)

    def text(self, group: str, attribute: str) -> str | None:
        """A text attribute."""
        with self._reading(f"the attribute {attribute}"), limited_memory(2 * self._size):
            value = self._attribute(group, attribute)
            return None if value is None else _decoded(value)

    def texts(self, group: str, attribute: str) -> list[str] | None:
        """An attribute with a list of texts. Keras splits a long one into attribute0, attribute1, …"""
        with self._reading(f"the attribute {attribute}"), limited_memory(2 * self._size):
            values = self._attribute(group, attribute)
            if values is not None:
                return [_decoded(each) for each in np.atleast_1d(values)]
            pieces: list[str] = []
            while (piece := self._attribute(group, f"{attribute}{len(pieces)}")) is not None:
                pieces.extend(_decoded(each) for each in np.atleast_1d(piece))
            return pieces or None

    def has(self, group: str) -> bool:
        return group in self._groups

    def _attribute(self, group: str, attribute: str) -> Any:
        if group not in self._groups:
            return None
        return self._file[f"/{group}"].attrs.get(attribute)

    def _walk(self) -> None:
        visited: set[int] = set()
        self._groups: set[str] = set()
        pending: list[tuple[str, Any]] = [("", self._file)]
        total = 0
        while pending:
            path, node = pending.pop()
            if isinstance(node, self._h5py.Dataset):
                total += self._take(path, node)
                continue
            address = self._h5py.h5o.get_info(node.id).addr
            if address in visited:
                raise refused(self.path, expected="a tree of groups", received=f"a link back to a group, at {path}")
            visited.add(address)
            self._groups.add(path)
            children = [(f"{path}/{name}".lstrip("/"), self._child(node, name)) for name in node]
            pending.extend(reversed(children))
        if total > max(EXPANSION * self._size, FLOOR):
            raise refused(
                self.path,
                expected=f"numbers of at most {EXPANSION} times the file's {self._size} bytes",
                received=f"datasets that unpack to {total} bytes",
            )

    def _child(self, group: Any, name: str) -> Any:
        link = group.get(name, getlink=True)
        if not isinstance(link, self._h5py.HardLink):
            raise refused(self.path, expected=_ELSEWHERE, received=f"the link {group.name}/{name} to another place")
        return group[name]

    def _take(self, path: str, node: Any) -> int:
        """Registers a dataset, and returns its unpacked size in bytes."""
        if node.is_virtual or node.external:
            raise refused(self.path, expected=_ELSEWHERE, received=f"the dataset {path} with its values in other files")
        dtype = _torch_dtype(node)
        if dtype is None or node.shape is None:
            self.others.append(path)
            return 0
        self.datasets[path] = Stored(shape=tuple(node.shape), dtype=dtype)
        return prod(node.shape) * dtype.itemsize

    @contextmanager
    def _reading(self, what: str) -> Generator[None]:
        try:
            yield
        except InputError:
            raise
        except DAMAGE as error:
            raise refused(
                self.path, expected="a Keras file", received=f"damage while reading {what} ({first_line(error)})"
            ) from error


@contextmanager
def limited_memory(extra: int) -> Generator[None]:
    """Limits the process's additional memory to `extra` bytes and some slack, if Linux supports it; further allocations
    fail.

    HDF5 trusts the length of a text before checking whether the file is that long, and fills up to 4 GB with zeros.
    """
    try:
        import resource

        status = Path("/proc/self/status").read_text(encoding="ascii")
        data = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:")) * 1024
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    except (ImportError, OSError, StopIteration):
        yield
        return
    bound = data + extra + _SLACK
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([bound, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _torch_dtype(node: Any) -> torch.dtype | None:
    dtype: np.dtype[Any] = node.dtype
    if dtype.kind == "V" and dtype.itemsize == 2 and _decoded(node.attrs.get("dtype", "")) == "bfloat16":
        return torch.bfloat16
    if dtype.kind not in "biuf" or dtype.subdtype is not None:
        return None
    try:
        return torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype
    except TypeError:
        return None


def _decoded(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
