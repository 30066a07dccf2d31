"""Files that are refused, each in the words that its writer needs: what was expected, what is there, what to try."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from graft.config.faults import InputError
from graft.config.schema import KerasConfig
from graft.transfer.donors import archive, open_donor
from graft.transfer.donors.folder import classes_of_folder, record_of
from graft.transfer.donors.sniff import COPY_AGAIN, EXPECTED, is_keras

TENSOR = {"a.weight": torch.ones(2, 2)}
TORCH = "a file of torch.save"
SAFE = "a safetensors file"
NPZ = "an .npz archive"
INDEX = "an index of shards (`weight_map`: tensor name to file name)"
DAMAGED = "a zip archive that is cut off or damaged"


def put(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "donor.bin").write_bytes(content)
        return folder / "donor.bin"

    return write


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def zipped(entries: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, content in entries.items():
            written.writestr(name, content)
    return file.getvalue()


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as found:
        return {name: found.read(name) for name in found.namelist()}


def array(value: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


def header(content: Any, data: bytes = b"") -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + data


def big_endian() -> bytes:
    return zipped(
        {name: b"big" if name.endswith("byteorder") else each for name, each in unzipped(saved(TENSOR)).items()}
    )


def old_and_big_endian() -> bytes:
    return b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": False}))


def folder_of(**files: bytes | None) -> Callable[[Path], Path]:
    """Names with `__` for dots; None: a folder."""

    def write(folder: Path) -> Path:
        for name, content in files.items():
            place = folder / "all" / name.replace("__", ".")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir() if content is None else place.write_bytes(content)
        return folder / "all"

    return write


def shards(weight_map: Any, **files: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        return folder_of(index__json=json.dumps({"weight_map": weight_map}).encode(), **files)(folder) / "index.json"

    return write


def missing(name: str) -> Callable[[Path], Path]:
    return lambda folder: folder / name


SHORT = array(np.zeros(3, "f4"))
REFUSED: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "nothing": (put(b""), {}, f"expected {EXPECTED}, received an empty file; try: {COPY_AGAIN}"),
    "text": (put("weights\u00e4 of".encode()), {},
             f"expected {EXPECTED}, received text that begins 'weights\u00e4 of'; try: {COPY_AGAIN}"),
    "bytes": (put(bytes(range(9))), {},
              f"expected {EXPECTED}, received bytes of no known format, beginning 00 01 02 03 04 05 06 07; "
              f"try: {COPY_AGAIN}"),
    "tar": (put(b"a" * 257 + b"ustar" + b"a" * 250), {},
            f"expected {EXPECTED}, received a tar archive (torch.save wrote such before 0.1.10; to read them means "
            "running code); try: a newer file"),
    "lfs": (put(b"version https://git-lfs.example/spec"), {},
            f"expected {EXPECTED}, received a git-lfs pointer instead of the file itself; try: git lfs pull"),
    "array": (put(SHORT), {}, f"expected {EXPECTED}, received a single NumPy array without a name; "
                              "try: np.savez(path, name=array)"),
    "gzip": (put(b"\x1f\x8b\x08"), {}, f"expected {EXPECTED}, received a compressed file; try: unpack it"),
    "other zip": (put(zipped({"a.txt": b"1", "b.txt": b"2"})), {},
                  f"expected {EXPECTED}, received a zip archive of something else (a.txt, b.txt); try: unpack it"),
    "empty zip": (put(zipped({})), {},
                  f"expected {EXPECTED}, received a zip archive of something else (nothing); try: unpack it"),
    "no path": (missing("a\0b"), {},
                f"expected {EXPECTED}, received a path that cannot be opened (‹›); try: {COPY_AGAIN}"),
    "long path": (missing("a" * 300), {},
                  f"expected {EXPECTED}, received a path that cannot be opened (‹›); try: {COPY_AGAIN}"),
    "nowhere": (missing("of.pth"), {}, f"expected {EXPECTED}, received no such file; try: a file in {{folder}}"),
    "big endian": (put(big_endian()), {},
                   f"expected {TORCH}, received a damaged pickle (numbers with their highest byte first, as another "
                   f"machine has them); try: {COPY_AGAIN}"),
    "old, big endian": (put(old_and_big_endian()), {},
                        f"expected {TORCH}, received a damaged pickle (numbers with their highest byte first, as "
                        f"another machine has them); try: {COPY_AGAIN}"),
    "one tensor": (put(saved(torch.ones(2))), {},
                   "expected a mapping of names to tensors, received a single Tensor; "
                   "try: torch.save(model.state_dict(), …)"),
    "no container": (put(saved({"model": TENSOR})), {"container": "modle"},
                     "expected donor.container to name a mapping of tensors, received 'modle', while the file has "
                     "model (1 tensors); try: donor.container=model"),
    "two containers": (put(saved({"model": TENSOR, "teacher": TENSOR | {"b": torch.ones(1)}})), {},
                       "expected one mapping of tensors, or donor.container to say which, received a file with model "
                       "(1 tensors), teacher (2 tensors); try: donor.container=model"),
    "no average": (put(saved({"model": TENSOR})), {"ema": True},
                   "expected averaged weights (state_dict_ema, model_ema, …) for donor.ema=true, received a file with "
                   "model (1 tensors); try: donor.ema=false, or donor.container=NAME"),
    "average of another": (put(saved({"model": TENSOR})), {"ema": True, "container": "model"},
                           "expected donor.container and donor.ema to agree, received donor.ema=true with "
                           "donor.container=model; try: leave one of the two out"),
    "container of safetensors": (put(header({})), {"container": "x", "ema": True, "keras": KerasConfig(input="bgr")},
                                 "expected only options that this format has, received donor.container=x, "
                                 "donor.ema=true, donor.keras with a file in the format safetensors; try: leave it "
                                 "out"),
    "hash": (put(saved(TENSOR)), {"sha256": "AB"},
             "expected sha256 AB, received {hash}; try: the donor that was meant, or its hash"),
    "header beyond the file": (put((99).to_bytes(8, "little") + b"{}"), {},
                               f"expected {SAFE} with a header of at most 2 bytes, received one that says its header "
                               f"has 99 bytes in a file of 10; try: {COPY_AGAIN}"),
    "no tensors": (put(header({})), {},
                   f"expected tensors, received a safetensors file with none in it; try: {COPY_AGAIN}"),
    "a tensor twice": (put(header(b'{"a": 1, "a": 2}')), {},
                       f"expected {SAFE}, received a header that cannot be read (a is named twice); try: {COPY_AGAIN}"),
    "odd entry": (put(header({"a": {"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}}, b"1234")), {},
                  "expected a known dtype, a shape and two offsets for each tensor, received {{'dtype': 'F7', 'shape': "
                  "[1], 'data_offsets': [0, 4]}} for a; try: write the tensors again as float32, float16 or bfloat16"),
    "short entry": (put(header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234")), {},
                    f"expected 8 bytes for a of shape [2], received 4; try: {COPY_AGAIN}"),
    "npz of objects": (put(zipped({"a.npy": array(np.array([{}], dtype=object))})), {},
                       "expected arrays of numbers, received a as an array of pickled Python objects; nothing of it "
                       "was executed; try: np.savez with numeric arrays only"),
    "npz of texts": (put(zipped({"a.npy": array(np.array(["x"]))})), {},
                     f"expected arrays of numbers, received an archive with none in it; try: {COPY_AGAIN}"),
    "short npz": (put(zipped({"a.npy": SHORT[:-4]})), {},
                  f"expected 12 bytes for a.npy of shape (3,), received 8; try: {COPY_AGAIN}"),
    "npz of others": (put(zipped({"a.npy": b"no array at all"})), {},
                      f"expected {NPZ}, received a damaged entry a.npy (‹›); try: {COPY_AGAIN}"),
    "an empty folder": (folder_of(sub=None), {},
                        "expected a folder with model/model.safetensors (a run's) or one file of weights, received a "
                        "folder with sub; try: the weights file itself"),
    "a folder of others": (folder_of(**{f"{name}__txt": b"" for name in "abcdefg"}), {},
                           "expected a folder with model/model.safetensors (a run's) or one file of weights, received "
                           "a folder with a.txt, b.txt, c.txt, d.txt, e.txt and 2 more; try: the weights file itself"),
    "a run without its model": (folder_of(checkpoints=None), {},
                                "expected a folder with model/model.safetensors (a run's) or one file of weights, "
                                "received a run's folder without its exported model; "
                                "try: {path}/checkpoints/best.ckpt"),
    "two files": (folder_of(a__pth=b"1", b__pth=b"1"), {},
                  "expected one file of weights, received a.pth, b.pth; try: donor.path={path}/a.pth"),
    "many files": (folder_of(**{f"{place}__pth": b"1" for place in range(10)}), {},
                   "expected one file of weights, received 0.pth, 1.pth, 2.pth, 3.pth, 4.pth, 5.pth, 6.pth, 7.pth and "
                   "2 more; try: donor.path={path}/0.pth"),
    "an index of nothing": (shards({}), {}, f"expected {INDEX}, received JSON with no weight_map; "
                                            "try: the weights file beside it"),
    "an index of elsewhere": (shards({"a": "../b.safetensors"}), {},
                              f"expected shards beside the index, received the file name '../b.safetensors'; "
                              f"try: {COPY_AGAIN}"),
    "an index that is cut off": (put(b'{"weight_map": '), {},
                                 f"expected {INDEX}, received JSON that cannot be read (‹›); "
                                 f"try: {COPY_AGAIN}"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_is_refused_in_these_words(tmp_path: Path, case: str) -> None:
    write, options, told = REFUSED[case]
    path = write(tmp_path)
    with pytest.raises(InputError) as caught:
        open_donor(path, **options)
    known = {"path": path, "folder": tmp_path}
    if "{hash}" in told:
        known["hash"] = hashlib.sha256(path.read_bytes()).hexdigest()  # pyright: ignore[reportArgumentType]
    words = re.escape(f"donor {path}: {told.format(**known)}").replace("‹›", ".+")  # what other libraries say
    assert re.fullmatch(words, str(caught.value)), str(caught.value)


def test_shards_that_the_index_does_not_describe_are_refused_in_these_words(tmp_path: Path) -> None:
    save_file(TENSOR, tmp_path / "x.safetensors")
    one = (tmp_path / "x.safetensors").read_bytes()
    index = shards({"a.weight": "x__npz".replace("__", "."), "b": "y.safetensors"}, x__npz=zipped({"a.npy": SHORT}),
                   y__safetensors=one)(tmp_path)  # fmt: skip
    with pytest.raises(InputError) as caught:
        open_donor(index)
    shard = index.parent / "x.npz"
    assert str(caught.value) == (
        f"donor {shard}: expected a shard in safetensors or PyTorch's format, received npz; try: {COPY_AGAIN}"
    )
    index.write_text(json.dumps({"weight_map": {"a.weight": "y.safetensors", "b": "y.safetensors"}}))
    with pytest.raises(InputError) as caught:
        open_donor(index)
    assert str(caught.value) == (
        f"donor {index}: expected y.safetensors to hold exactly the tensors that the index puts there, received a "
        "difference in 1: b; try: copy the index and all of its shards again, from the same place"
    )


def test_a_folder_in_the_place_of_a_file_of_weights_is_refused(tmp_path: Path) -> None:
    folder = folder_of(weights__safetensors=None)(tmp_path)
    with pytest.raises(InputError) as caught:
        open_donor(folder)
    assert str(caught.value) == (
        f"donor {folder / 'weights.safetensors'}: expected a file, received a folder; try: {COPY_AGAIN}"
    )


def test_an_archive_s_entries_are_whole_stored_and_as_they_were_written(tmp_path: Path) -> None:
    path = put(zipped({"a": b"1234"})[:-4])(tmp_path)
    with pytest.raises(InputError) as caught:
        archive.entries(path, "a thing")
    assert str(caught.value) == (
        f"donor {path}: expected a thing, received {DAMAGED} (File is not a zip file); try: {COPY_AGAIN}"
    )
    path.write_bytes(zipped({"a": b"1234"}))
    (entry,) = archive.entries(path, "a thing")
    assert archive.stored_bytes(path, entry) == b"1234"
    assert path.read_bytes()[archive.begin_of(path, entry) :].startswith(b"1234")
    archive.check_stored(path, [entry], "a thing")
    content = bytearray(path.read_bytes())
    content[archive.begin_of(path, entry)] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        archive.check_stored(path, [entry], "a thing")
    assert str(caught.value) == (
        f"donor {path}: expected a thing, received an archive whose entry a does not match its checksum; "
        f"try: {COPY_AGAIN}"
    )
    entry.file_size = 10**6
    with pytest.raises(InputError) as caught:
        archive.check_stored(path, [entry], "a thing")
    assert str(caught.value) == (
        f"donor {path}: expected a thing, received a damaged archive (the file ends inside a); try: {COPY_AGAIN}"
    )
    entry.header_offset = 1
    with pytest.raises(zipfile.BadZipFile, match=r"^no entry where a should begin$"):
        archive.begin_of(path, entry)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a", b"1" * 99)
        packed.writestr("b", b"1" * 99)
    found = archive.entries(path, "a thing")
    with pytest.raises(InputError) as caught:
        archive.check_stored(path, found, "a thing")
    assert str(caught.value) == (
        f"donor {path}: expected a thing with its entries stored as they are, received compressed entries (a, 2 in "
        "all); try: unpack the archive and zip it again with `zip -0 -r`, or save the tensors again"
    )


def test_what_a_model_s_record_says_is_taken_or_refused(tmp_path: Path) -> None:
    assert record_of(tmp_path) is None
    assert classes_of_folder(tmp_path) is None
    record = tmp_path / "model.json"
    for content, record_told, classes in (
        ("[1]", {}, None),
        ('{"classes": ["a", "b"]}', {"classes": ["a", "b"]}, ("a", "b")),
    ):
        record.write_text(content)
        assert record_of(tmp_path) == record_told
        assert classes_of_folder(tmp_path) == classes
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text('{"classes": ["inner"]}')  # a run's, which goes before
    assert classes_of_folder(tmp_path) == ("inner",)
    record = tmp_path / "model" / "model.json"
    for content, told in (
        ('{"classes": ["a", 1]}', "expected `classes` in its model.json as a list of names, received ['a', 1]"),
        ('{"classes": "ab"}', "expected `classes` in its model.json as a list of names, received ab"),
    ):
        record.write_text(content)
        with pytest.raises(InputError) as caught:
            classes_of_folder(tmp_path)
        assert str(caught.value) == f"donor {tmp_path}: {told}; try: {COPY_AGAIN}"
    record.write_text("{")
    with pytest.raises(InputError, match=r"expected a model's description in JSON, received Expecting property name"):
        record_of(tmp_path)


def test_only_a_file_of_keras_is_one(tmp_path: Path) -> None:
    assert is_keras(str(put(b"\x89HDF\r\n\x1a\n")(tmp_path)))
    assert is_keras(str(put(zipped({"model.weights.h5": b"", "config.json": b""}))(tmp_path)))
    assert not is_keras(str(put(saved(TENSOR))(tmp_path)))
    assert not is_keras(str(tmp_path / "nothing"))
