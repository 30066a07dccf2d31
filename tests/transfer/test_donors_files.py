"""open_donor: what each kind of file, folder and reference gives, and how the bad ones are turned away."""

import hashlib
import json
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from graft.config.faults import InputError
from graft.transfer.donors import classes_of_folder, open_donor


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "bn.running_mean": torch.randn(4, generator=generator).half(),
        "bn.num_batches_tracked": torch.tensor(7),
    }


def write(path: Path, tensors: dict[str, torch.Tensor], format: str) -> Path:
    match format:
        case "torch":
            torch.save(tensors, path)
        case "legacy":
            torch.save(tensors, path, _use_new_zipfile_serialization=False)
        case "safetensors":
            save_file(tensors, path)
        case "npz":
            np.savez(path.with_suffix(".npz"), **{name: value.numpy() for name, value in tensors.items()})
            path.with_suffix(".npz").rename(path)
        case "npz_compressed":
            np.savez_compressed(path.with_suffix(".npz"), **{name: value.numpy() for name, value in tensors.items()})
            path.with_suffix(".npz").rename(path)
    return path


FORMATS = {"torch": "torch", "legacy": "torch", "safetensors": "safetensors", "npz": "npz", "npz_compressed": "npz"}


@pytest.mark.parametrize("format", FORMATS)
def test_values_shapes_and_hash_of_every_format(tmp_path: Path, tensors, format: str) -> None:
    path = write(tmp_path / "weights.of.no.known.ending", tensors, format)
    with open_donor(path) as donor:
        assert donor.format == FORMATS[format]
        assert donor.source == str(path)
        assert donor.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert set(donor.infos) == set(tensors)
        for name, value in tensors.items():
            assert donor.infos[name].shape == tuple(value.shape)
            assert donor.infos[name].dtype == str(value.dtype).removeprefix("torch.")
            assert torch.equal(donor.read(name), value)
            assert donor.read(name).dtype == value.dtype


def test_fortran_order_and_big_endian_arrays_keep_their_values(tmp_path: Path) -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    np.savez(tmp_path / "a.npz", big=array, fortran=np.asfortranarray(array.astype("f8")), text=np.array(["x"]))
    donor = open_donor(tmp_path / "a.npz")
    assert set(donor.infos) == {"big", "fortran"}
    assert donor.infos["big"].dtype == "float32"
    assert donor.read("big").tolist() == donor.read("fortran").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert donor.remarks == ["not a tensor, left out: text (<U1)"]


def test_parameters_and_views_of_one_storage_are_read(tmp_path: Path) -> None:
    shared = torch.arange(12.0)
    torch.save(
        OrderedDict(a=nn.Parameter(shared[:6].view(2, 3)), b=shared[6:], c=shared.view(3, 4).T), tmp_path / "a.pt"
    )
    donor = open_donor(tmp_path / "a.pt")
    assert donor.read("a").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not donor.read("a").requires_grad
    assert donor.read("b")[0] == 6
    assert donor.read("c").shape == (4, 3)


# -- containers


def test_container_is_found_and_said(tmp_path: Path, tensors) -> None:
    torch.save({"state_dict": tensors, "epoch": 3, "arch": "resnet50", "optimizer": {"state": {}}}, tmp_path / "a.pt")
    donor = open_donor(tmp_path / "a.pt")
    assert set(donor.infos) == set(tensors)
    assert donor.remarks == ["container state_dict; left out: epoch, arch, optimizer"]


def test_lightning_checkpoints_are_recognised(tmp_path: Path, tensors) -> None:
    checkpoint = {
        "epoch": 1,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": {f"model.{name}": value for name, value in tensors.items()},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    donor = open_donor(tmp_path / "last.ckpt")
    assert donor.format == "lightning"
    assert set(donor.infos) == {f"model.{name}" for name in tensors}  # prefixes are the matching's business


def test_averaged_weights_are_taken_only_when_asked_for(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(2)}, "state_dict_ema": {"w": torch.ones(2)}}, tmp_path / "a.pt")
    plain, averaged = open_donor(tmp_path / "a.pt"), open_donor(tmp_path / "a.pt", ema=True)
    assert plain.read("w").tolist() == [0, 0]
    assert averaged.read("w").tolist() == [1, 1]
    assert "not taken: state_dict_ema (1 tensors)" in plain.remarks
    assert "not taken: state_dict (1 tensors)" in averaged.remarks
    assert open_donor(tmp_path / "a.pt", container="state_dict_ema").read("w").tolist() == [1, 1]


def test_nested_container_by_dotted_path(tmp_path: Path) -> None:
    torch.save({"model": {"student": {"w": torch.zeros(1)}, "teacher": {"w": torch.ones(1)}}}, tmp_path / "a.pt")
    assert open_donor(tmp_path / "a.pt", container="model.teacher").read("w") == 1
    with pytest.raises(InputError, match=r"model\.student \(1 tensors\), model\.teacher \(1 tensors\)"):
        open_donor(tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"donor\.container=model\.teacher"):
        open_donor(tmp_path / "a.pt", container="model.techer")


def test_what_is_not_a_tensor_is_said(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1), "epoch": 3, "names": ["a"]}, tmp_path / "a.pt")
    assert open_donor(tmp_path / "a.pt").remarks == ["not tensors, left out: epoch (int), names (list)"]


def test_ema_without_averaged_weights_is_an_error(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(1)}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"averaged weights .* donor\.ema=false"):
        open_donor(tmp_path / "a.pt", ema=True)


@pytest.mark.parametrize("value", [{}, {"epoch": 3}, torch.zeros(2), [torch.zeros(2)], "text"])
def test_a_checkpoint_without_named_tensors_is_an_error(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"expected a mapping of names to tensors.*try: torch\.save"):
        open_donor(tmp_path / "a.pt")


def test_container_of_a_format_without_any_is_an_error(tmp_path: Path, tensors) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"donor\.ema=true with a file in the format safetensors; try: leave it out"):
        open_donor(tmp_path / "a.safetensors", ema=True)


# -- untrusted content


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, tensors, legacy: bool) -> None:
    mark = tmp_path / "code_ran"
    torch.save({"state_dict": tensors, "x": Bomb(mark)}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=r"would run code to rebuild posix\.mkdir; nothing of it was executed"):
        open_donor(tmp_path / "a.pt")
    assert not mark.exists()


def test_a_plain_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "code_ran"
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"x": Bomb(mark)}, protocol=2))
    with pytest.raises(InputError):
        open_donor(tmp_path / "a.pkl")
    assert not mark.exists()


def test_code_is_refused_whatever_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark = tmp_path / "code_ran"
    torch.save({"x": Bomb(mark)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="nothing of it was executed"):
        open_donor(tmp_path / "a.pt")
    assert not mark.exists()


def test_a_whole_pickled_module_is_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"save model\.state_dict\(\) instead of the whole module"):
        open_donor(tmp_path / "a.pt")


def test_torchscript_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/constants.pkl", b"\x80\x02).")
        archive.writestr("a/code/__torch__.py", "")
    with pytest.raises(InputError, match="TorchScript archive, which holds code"):
        open_donor(tmp_path / "a.pt")


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="pickled Python objects; nothing of it was executed"):
        open_donor(tmp_path / "a.npz")


def test_a_view_that_is_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(10**9)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="repeats fewer stored values"):
        open_donor(tmp_path / "a.pt")


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", w=np.zeros(10_000_000))
    with pytest.raises(InputError, match=r"an archive that says it unpacks to 80000\d+ bytes"):
        open_donor(tmp_path / "a.npz")
    torch.save({"w": torch.zeros(1000)}, tmp_path / "b.pt")
    with (
        zipfile.ZipFile(tmp_path / "b.pt") as old,
        zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(InputError, match="compressed entries"):
        open_donor(tmp_path / "c.pt")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_an_archive_that_names_an_entry_twice_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        twice = archive.namelist()[0]
        archive.writestr(twice, b"another")
    with pytest.raises(InputError, match=rf"an archive that holds {re.escape(twice)} more than once"):
        open_donor(tmp_path / "a.pt")


def test_a_flipped_bit_in_a_tensor_of_a_zip_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    content[content.index(bytes(100)) + 50] ^= 1
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(InputError, match="does not match its checksum"):
        open_donor(tmp_path / "a.pt")


def test_files_written_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert open_donor(tmp_path / "a.pt").read("w").tolist() == [1, 1, 1]


def header_of(path: Path, header: dict | bytes, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"{" + b" " * 5 + b"nonsense", "a header that cannot be read"),
        (b'{"a": 1, "a": 2}', "a is named twice"),
        ({}, "with none in it"),
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "expected 8 bytes for w"),
        ({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "for w"),
        ({"w": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, "for w"),
        ({"w": {"dtype": "F32", "shape": [10**30], "data_offsets": [0, 4 * 10**30]}}, "safetensors"),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "safetensors"),
    ],
)
def test_safetensors_headers_are_checked(tmp_path: Path, header: dict | bytes, said: str) -> None:
    path = header_of(tmp_path / "a.safetensors", header, bytes(4))
    with pytest.raises(InputError, match=re.escape(said)):
        open_donor(path)


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match=r"says its header has 1099511627776 bytes in a file of 10"):
        open_donor(tmp_path / "a.safetensors")


# -- paths


def test_a_missing_file_names_its_neighbours(tmp_path: Path, tensors) -> None:
    write(tmp_path / "resnet50.pth", tensors, "torch")
    with pytest.raises(InputError, match=rf"no such file; try: {re.escape(str(tmp_path))}/resnet50\.pth"):
        open_donor(tmp_path / "resnet5.pth")
    with pytest.raises(InputError, match=r"no such file"):
        open_donor(tmp_path / "nowhere" / "at" / "all.pth")
    with pytest.raises(InputError, match=r"no such file"):
        open_donor(tmp_path / "resnet50.pth" / "below.pth")


CONTENT = {
    b"": "an empty file",
    b"hello, weights": "text that begins 'hello, weights'",
    b"version https://git-lfs.github.com/spec/v1\noid": "git-lfs pointer",
    b"<!DOCTYPE html><html>": "a web page",
    b"\x1f\x8b\x08\x00": "a compressed file",
    b"\x93NUMPY\x01\x00": "a single NumPy array",
    b"PK\x03\x04 cut off": "a zip archive that is cut off or damaged",
    b"\x00\x01\x02\x03": "bytes of no known format, beginning 00 01 02 03",
    b"\x80\x02": "damaged",
    b'{"a": 1}': "no weight_map",
}


@pytest.mark.parametrize("content", CONTENT)
def test_other_content_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(CONTENT[content])) as caught:
        open_donor(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)
    assert "try: " in str(caught.value)


@pytest.mark.parametrize("format", FORMATS)
def test_a_truncated_file_is_refused(tmp_path: Path, tensors, format: str) -> None:
    content = write(tmp_path / "whole", tensors, format).read_bytes()
    for share in (0.3, 0.7, 0.99):
        (tmp_path / "cut").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InputError, match="try: "):
            open_donor(tmp_path / "cut")


def test_the_hash_is_checked_before_the_content(tmp_path: Path, tensors) -> None:
    path = write(tmp_path / "a.pt", tensors, "torch")
    with pytest.raises(InputError, match=rf"expected sha256 {'0' * 64}, received {open_donor(path).sha256}"):
        open_donor(path, sha256="0" * 64)
    assert open_donor(path, sha256=str(open_donor(path).sha256).upper()).infos


def test_links_and_special_files(tmp_path: Path, tensors) -> None:
    real = write(tmp_path / "real", tensors, "torch")
    (tmp_path / "link").symlink_to(real)
    assert open_donor(tmp_path / "link").infos
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("loop", "cannot be opened"), ("dangling", "does not exist"), ("pipe", "a device, pipe")):
        with pytest.raises(InputError, match=said):
            open_donor(tmp_path / name)
    with pytest.raises(InputError, match="cannot be opened"):
        open_donor(str(tmp_path / "a\x00b"))
    with pytest.raises(InputError, match="cannot be opened"):
        open_donor(tmp_path / ("x" * 5000))


# -- folders, shards, references


def test_folders(tmp_path: Path, tensors) -> None:
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "checkpoints").mkdir()
    with pytest.raises(InputError, match="a run's folder without its exported model"):
        open_donor(run)
    save_file(tensors, run / "model" / "model.safetensors")
    (run / "model" / "model.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    donor = open_donor(run)
    assert donor.remarks == [f"the exported model of the run in {run}"]
    assert torch.equal(donor.read("conv.weight"), tensors["conv.weight"])
    assert classes_of_folder(run) == classes_of_folder(run / "model") == ("cat", "dog")
    assert open_donor(run / "model").sha256 == donor.sha256

    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="an empty folder"):
        open_donor(tmp_path / "empty")
    (tmp_path / "two").mkdir()
    for name in ("a.pt", "b.safetensors"):
        write(tmp_path / "two" / name, tensors, "torch")
    with pytest.raises(InputError, match=r"expected one file of weights, received a\.pt, b\.safetensors"):
        open_donor(tmp_path / "two")


def shard(folder: Path, tensors: dict[str, torch.Tensor], format: str = "safetensors") -> Path:
    names = list(tensors)
    where = {name: f"part-{number % 2}.bin" for number, name in enumerate(names)}
    for file in set(where.values()):
        write(folder / file, {name: tensors[name] for name in names if where[name] == file}, format)
    (folder / "model.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder / "model.index.json"


@pytest.mark.parametrize("format", ["safetensors", "torch"])
def test_shards_are_read_as_one(tmp_path: Path, tensors, format: str) -> None:
    index = shard(tmp_path, tensors, format)
    for path in (index, tmp_path):
        donor = open_donor(path)
        assert donor.format == f"sharded {format}"
        assert donor.remarks == ([] if path is index else [f"the index {index.name} in {tmp_path}"]) + ["2 shards"]
        assert donor.resident is (format == "safetensors")
        assert donor.is_finite() is (format == "safetensors")  # looked at as a whole, where the files are mapped
        assert list(donor.infos) == list(tensors)
        for name, value in tensors.items():
            assert torch.equal(donor.read(name), value)
    pinned = open_donor(index).sha256
    assert open_donor(index, sha256=pinned)
    write(tmp_path / "part-1.bin", {"bn.running_mean": torch.zeros(4).half()}, format)
    assert open_donor(index).sha256 != pinned


def test_shards_and_index_must_agree(tmp_path: Path, tensors) -> None:
    index = shard(tmp_path, tensors)
    content = json.loads(index.read_text())
    content["weight_map"]["extra.weight"] = "part-0.bin"
    index.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"a difference in 1: extra\.weight"):
        open_donor(index)
    for stray in ("../part-0.bin", "/etc/passwd", "..", ""):
        content["weight_map"]["extra.weight"] = stray
        index.write_text(json.dumps(content))
        with pytest.raises(InputError, match="expected shards beside the index"):
            open_donor(index)
    content["weight_map"]["extra.weight"] = "part-7.bin"
    index.write_text(json.dumps(content))
    with pytest.raises(InputError, match="no such file"):
        open_donor(index)


def test_a_module_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_donors.py").write_text(
        "from torch import nn\ndef small(): return nn.Linear(2, 3)\nready = nn.Linear(2, 4)\ndef number(): return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    donor = open_donor("python:my_donors:small")
    assert donor.infos["weight"].shape == (3, 2)
    assert donor.source == "python:my_donors:small"
    again = open_donor("python:my_donors:ready")
    assert again.sha256 == open_donor("python:my_donors:ready").sha256 != donor.sha256
    assert open_donor("python:my_donors:ready").infos["bias"].shape == (4,)
    for reference, said in {
        "python:my_donors:smal": "try python:my_donors:small",
        "python:my_donors": "expected python:package.module:factory",
        "python:my_doors:small": "expected an importable module",
        "python:my_donors:number": "to give an nn.Module, received int",
    }.items():
        with pytest.raises(InputError, match=re.escape(said)):
            open_donor(reference)


def test_a_local_dir_reference(tmp_path: Path, tensors) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    donor = open_donor(f"local-dir:{tmp_path}")
    assert set(donor.infos) == set(tensors)
    assert donor.source == f"local-dir:{tmp_path}"
