"""PyTorch's files and plain pickles: their tensors are read, nothing beside them is made, and nothing runs."""

from __future__ import annotations

import argparse
import datetime
import enum
import pickle
import re
import signal
import time
from collections import OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from graft.config.faults import InputError
from graft.transfer.donors import open_donor


class Mode(enum.Enum):
    fast = "fast"


class Settings(dict[str, Any]):
    """As easydict, yacs and Lightning have them."""


class Stops:
    """Of somebody's own, and made by no means here."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["mark"].mkdir()

    def __reduce__(self) -> tuple[Any, ...]:
        return Stops, (self.mark,), {"mark": self.mark}


def beside() -> dict[str, Any]:
    return {
        "args": argparse.Namespace(lr=0.1, model="resnet18"),
        "metric": np.float32(0.7),
        "path": Path("a/b"),
        "meters": defaultdict(list, loss=[1.0]),
        "config": OmegaConf.create({"lr": 0.1, "layers": [1, {"width": 2}]}),
        "when": datetime.datetime(2020, 1, 1),
        "mode": Mode.fast,
        "signal": signal.SIGINT,
        "size": torch.Size([1, 2]),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "recent": deque([1, 2]),
        "settings": Settings(a=1),
        "criterion": nn.CrossEntropyLoss(),
        "history": np.zeros(3),
        "set": {1, 2},
    }


def state() -> OrderedDict[str, torch.Tensor]:
    w = torch.arange(12.0).reshape(3, 4)
    return OrderedDict(
        parameter=nn.Parameter(w),
        transposed=w.T,
        row=w[1],
        half=w.half(),
        brain=w.bfloat16(),
        count=torch.tensor(7),
        truth=torch.tensor([True, False]),
        byte=w.to(torch.float8_e4m3fn),
        unsigned=torch.tensor([1, 2], dtype=torch.uint16),
        conjugate=torch.complex(w, w).conj(),
        empty=torch.zeros(0, 3),
    )


def assert_read(path: Path, form: str) -> None:
    with open_donor(path) as donor:
        assert donor.format == form
        assert list(donor.infos) == list(state())
        for name, value in state().items():
            read = donor.read(name)
            assert (read.dtype, read.shape) == (value.dtype, value.shape)
            assert torch.equal(read.to(torch.complex128), value.detach().to(torch.complex128)), name


ZIP: dict[str, Any] = {}
LEGACY: dict[str, Any] = {"_use_new_zipfile_serialization": False}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", [ZIP, LEGACY])
def test_every_kind_of_tensor_in_every_form_of_torchs(tmp_path: Path, form: dict[str, Any], protocol: int) -> None:
    torch.save({"state_dict": state(), **beside()}, tmp_path / "a.pt", pickle_protocol=protocol, **form)
    assert_read(tmp_path / "a.pt", "torch")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_that_were_pickled_without_torch(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": state(), **beside()}, protocol))
    assert_read(tmp_path / "a.pkl", "pickle")


DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.bool, torch.complex64, torch.complex128),
)


@pytest.mark.parametrize("form", [ZIP, LEGACY])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_storage_is_read_beside_what_is_not_made(
    tmp_path: Path, dtype: torch.dtype, form: dict[str, Any]
) -> None:
    value = torch.tensor([0, 1, 3]).to(dtype)
    torch.save({"w": value, "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pt", **form)
    read = open_donor(tmp_path / "a.pt").read("w")
    assert (read.dtype, read.tolist()) == (dtype, value.tolist())


@pytest.mark.parametrize("form", [ZIP, LEGACY])
def test_tensors_with_attributes_of_their_own_are_read(tmp_path: Path, form: dict[str, Any]) -> None:
    tensors = {"plain": torch.arange(3.0), "parameter": nn.Parameter(torch.arange(2.0))}
    for value in tensors.values():
        value.is_shared_by = "two layers"
    torch.save({**tensors, "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pt", **form)
    with open_donor(tmp_path / "a.pt") as donor:
        assert {name: donor.read(name).tolist() for name in donor.infos} == {"plain": [0, 1, 2], "parameter": [0, 1]}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_in_a_plain_pickle(tmp_path: Path, protocol: int) -> None:
    """The form of detectron2's model zoo."""
    arrays = {
        "backbone.conv1.weight": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">f4"),
        "count": np.array(7),
        "empty": np.zeros((0, 2), np.float16),
    }
    found = {"model": arrays, "__author__": "detectron2", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(found, protocol))
    with open_donor(tmp_path / "R-50.pkl") as donor:
        assert donor.format == "pickle"
        assert donor.remarks == ["container model; left out: __author__, matching_heuristics"]
        for name, value in arrays.items():
            assert donor.read(name).tolist() == value.tolist()
            assert donor.infos[name].dtype == value.dtype.newbyteorder("=").name


def test_what_is_left_out_is_told_by_its_class(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "args": argparse.Namespace(), "mode": Mode.fast}, tmp_path / "a.pt")
    (remark,) = open_donor(tmp_path / "a.pt").remarks
    assert remark.startswith("not tensors, left out: args (argparse.Namespace), mode (")


def test_a_state_dict_of_a_class_of_ones_own_is_looked_into(tmp_path: Path) -> None:
    torch.save({"model": Settings(w=torch.ones(2))}, tmp_path / "a.pt")
    assert open_donor(tmp_path / "a.pt").read("w").tolist() == [1, 1]


def test_classes_of_other_people_are_not_made(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "x": Stops(tmp_path / "code_ran")}, tmp_path / "a.pt")
    assert open_donor(tmp_path / "a.pt").read("w") == 1
    assert not (tmp_path / "code_ran").exists()


@pytest.mark.parametrize("value", [nn.Linear(2, 2), {"model": nn.Linear(2, 2), "epoch": 3}])
def test_a_whole_module_is_answered_with_what_to_save(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"linear\.Linear.*save model\.state_dict\(\) instead of the whole module"):
        open_donor(tmp_path / "a.pt")


def test_a_tensor_of_another_kind_is_named(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.eye(3).to_sparse()}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"expected dense tensors, received fc\.weight by torch\._utils\._rebuild_"):
        open_donor(tmp_path / "a.pt")


# -- hostile


HOSTILE = {
    "a memo of billions": b"}r\xff\xff\xff\x7f",
    "more objects than a file needs": b"(" + b"]" * 400_000 + b"l",
    "more steps than a file needs": b"(" + b"N" * 2_100_000 + b"l",
    "keys that fall on one place": b"}("
    + b"".join(
        b"\x8a\x10" + (n * (2**61 - 1) * 2**20).to_bytes(16, "little", signed=True) + b"N" for n in range(1, 30_000)
    )
    + b"u",
    "one mapping under very many names": b"}q\x01("
    + b"".join(b"X\x04\x00\x00\x00%04dh\x01" % n for n in range(10_000))
    + b"u",
    "lists in lists in lists": b"(l" * 1 + b"]" * 1 + b"".join(b"]" for _ in range(50_000)) + b"a" * 50_000,
}


@pytest.mark.parametrize("steps", HOSTILE)
def test_no_pickle_takes_long_or_much(tmp_path: Path, steps: str) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02" + HOSTILE[steps] + b".")
    begin = time.process_time()
    with pytest.raises(InputError) as caught:
        open_donor(path)
    assert time.process_time() - begin < 20
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(100.0)}, tmp_path / "a.pt", **LEGACY)
    content = (tmp_path / "a.pt").read_bytes()
    changed = content.replace(b"K\x00Kd\x85", b"K\x01Kd\x85")  # the offset, before the shape
    assert changed != content
    (tmp_path / "a.pt").write_bytes(changed)
    with pytest.raises(InputError, match="reaches beyond its storage of 400 bytes"):
        open_donor(tmp_path / "a.pt")


# -- pieces


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_distributed_checkpoint_names_the_tool_that_merges_it(tmp_path: Path) -> None:
    from torch.distributed.checkpoint import FileSystemWriter, save

    folder = tmp_path / "step_100"
    save({"w": torch.ones(2)}, storage_writer=FileSystemWriter(folder), no_dist=True)
    told = re.escape(f"`python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} {folder}.pt`")
    for path in (folder, tmp_path, next(folder.glob("*.distcp")), folder / ".metadata"):
        with pytest.raises(InputError, match=told):
            open_donor(path)


@pytest.mark.parametrize("prefix", ["zero", "bf16_zero"])
def test_deepspeeds_pieces_name_its_script(tmp_path: Path, prefix: str) -> None:
    piece = f"{prefix}_pp_rank_3_mp_rank_00_optim_states.pt"
    folder = tmp_path / "global_step7"
    folder.mkdir()
    (tmp_path / "zero_to_fp32.py").write_text("")
    for name in (piece, "mp_rank_00_model_states.pt"):
        torch.save({"module": {"w": torch.ones(1)}}, folder / name)
    told = re.escape(f"`python {tmp_path}/zero_to_fp32.py {tmp_path} {tmp_path}/merged`")
    for path in (tmp_path, folder, folder / piece):
        with pytest.raises(InputError, match=told):
            open_donor(path)
    assert open_donor(folder / "mp_rank_00_model_states.pt").read("w") == 1  # without ZeRO it is whole
