"""Damaged and hostile donors of every format: refused in one paragraph or read in full, never anything else.

Each mutation ends in a transfer: it fills the whole target and accounts for it, or raises and leaves every bit alone.
"""

import json
import os
import pickle
import random
import resource
import tempfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from graft.config.faults import InputError
from graft.config.schema import KerasConfig
from graft.transfer import transfer
from graft.transfer.donors import open_donor

os.environ["KERAS_BACKEND"] = "torch"
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="keras-home-"))

pytestmark = [
    # Keras' Variable.__array__ has no `copy` keyword yet, which NumPy 2 wants: keras-team/keras#21319.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning:zipfile"),  # written on purpose
]

FAST, FULL = 40, 500
SECONDS = 20.0
"""For one mutation, on a busy machine."""
MEMORY = 300 * 2**20
"""Beyond what the process held before, for files of at most 100 KB."""
Tensors = dict[str, Tensor]
Mutate = Callable[[random.Random, Path], None]


def target() -> nn.Module:
    torch.manual_seed(0)
    layers = OrderedDict(
        conv=nn.Conv2d(3, 4, 3, bias=False), bn=nn.BatchNorm2d(4), flatten=nn.Flatten(), fc=nn.Linear(16, 5)
    )
    return nn.Sequential(layers)


def vision_transformer() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=12, depth=1, num_heads=3, num_classes=5
    )


TARGETS: dict[str, Callable[[], nn.Module]] = {"jax": vision_transformer}
"""The networks of those formats that another one than `target` reads."""


def values() -> Tensors:
    torch.manual_seed(1)
    return {name: torch.rand_like(value.float()).to(value.dtype) for name, value in target().state_dict().items()}


def arrays(tensors: Tensors) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in tensors.items()}


def jax_values() -> Tensors:
    """The names and axes of google-research/vision_transformer, for `vision_transformer`."""
    torch.manual_seed(1)
    block = "Transformer/encoderblock_0/"
    attention, dense = f"{block}MultiHeadDotProductAttention_1/", f"{block}MlpBlock_3/Dense_"
    vectors = [f"{block}LayerNorm_{number}/{leaf}" for number in (0, 2) for leaf in ("scale", "bias")]
    vectors += ["Transformer/encoder_norm/scale", "Transformer/encoder_norm/bias", "embedding/bias"]
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys([*vectors, f"{attention}out/bias", f"{dense}1/bias"], (12,)),
        **{f"{attention}{part}/kernel": (12, 3, 4) for part in ("query", "key", "value")},
        **{f"{attention}{part}/bias": (3, 4) for part in ("query", "key", "value")},
        f"{attention}out/kernel": (3, 4, 12),
        f"{dense}0/kernel": (12, 48),
        f"{dense}0/bias": (48,),
        f"{dense}1/kernel": (48, 12),
        "embedding/kernel": (8, 8, 3, 12),
        "cls": (1, 1, 12),
        "Transformer/posembed_input/pos_embedding": (1, 17, 12),
        "head/kernel": (12, 5),
        "head/bias": (5,),
    }
    return {name: torch.rand(shape) for name, shape in shapes.items()}


VALUES: dict[str, Callable[[], Tensors]] = {"jax": jax_values}


# -- one valid file a format


def write_npz(path: Path, tensors: Tensors, save: Callable = np.savez) -> None:
    with open(path, "wb") as file:
        save(file, **arrays(tensors))


def write_shards(folder: Path, tensors: Tensors) -> None:
    folder.mkdir(exist_ok=True)
    where = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(tensors)}
    for file in set(where.values()):
        save_file({name: tensors[name].contiguous() for name in tensors if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


WRITERS: dict[str, Callable[[Path, Tensors], None]] = {
    "torch": lambda path, tensors: torch.save({"state_dict": tensors, "epoch": 3}, path),
    "lightning": lambda path, tensors: torch.save(
        {
            "pytorch-lightning_version": "2.6.0",
            "epoch": 3,
            "state_dict": {f"model.{name}": value for name, value in tensors.items()},
            "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}}],
        },
        path,
    ),
    "legacy": lambda path, tensors: torch.save(OrderedDict(tensors), path, _use_new_zipfile_serialization=False),
    "safetensors": lambda path, tensors: save_file({n: t.contiguous() for n, t in tensors.items()}, path),
    "npz": write_npz,
    "npz_compressed": lambda path, tensors: write_npz(path, tensors, np.savez_compressed),
    "jax": write_npz,
    "shards": write_shards,
}
KERAS = {"keras": "model.keras", "h5": "model.h5", "weights_h5": "model.weights.h5"}


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small valid donor of every format; mutations are made on copies."""
    folder = tmp_path_factory.mktemp("valid")
    for format, write in WRITERS.items():
        write(folder / format, VALUES.get(format, values)())
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="bn", epsilon=1e-5),
            layers.Flatten(),
            layers.Dense(5, name="fc"),
        ]
    )
    for format, name in KERAS.items():
        model.save_weights(folder / name) if format == "weights_h5" else model.save(folder / name)
        (folder / name).rename(folder / format)
    return {format: folder / format for format in (*WRITERS, *KERAS)}


# -- mutations of bytes, for any file


def on_bytes(change: Callable[[random.Random, bytearray], bytearray]) -> Mutate:
    def mutate(rng: random.Random, path: Path) -> None:
        file = rng.choice(sorted(path.iterdir())) if path.is_dir() else path
        file.write_bytes(change(rng, bytearray(file.read_bytes())))

    return mutate


def truncate(rng: random.Random, content: bytearray) -> bytearray:
    return content[: rng.randrange(len(content))]


def flip_bits(rng: random.Random, content: bytearray) -> bytearray:
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content


def flip_in_front(rng: random.Random, content: bytearray) -> bytearray:
    for _ in range(rng.choice([1, 2, 4])):
        content[rng.randrange(min(1024, len(content)))] ^= 1 << rng.randrange(8)
    return content


def flip_at_the_end(rng: random.Random, content: bytearray) -> bytearray:
    for _ in range(rng.choice([1, 2, 4])):
        content[-1 - rng.randrange(min(1024, len(content)))] ^= 1 << rng.randrange(8)
    return content


def overwrite(rng: random.Random, content: bytearray) -> bytearray:
    begin, length = rng.randrange(len(content)), rng.choice([1, 2, 4, 8, 64])
    filling = rng.choice([b"\x00", b"\xff", b"\x7f", bytes([rng.randrange(256)])]) * length
    content[begin : begin + length] = filling
    return content


def drop_range(rng: random.Random, content: bytearray) -> bytearray:
    begin = rng.randrange(len(content))
    del content[begin : begin + rng.choice([1, 4, 64, 1024])]
    return content


def repeat_range(rng: random.Random, content: bytearray) -> bytearray:
    begin = rng.randrange(len(content))
    piece = content[begin : begin + rng.choice([1, 4, 64, 1024])]
    content[begin:begin] = piece * rng.choice([1, 2, 10])
    return content


def append_bytes(rng: random.Random, content: bytearray) -> bytearray:
    return content + rng.randbytes(rng.choice([1, 100, 5000]))


def huge_header(rng: random.Random, content: bytearray) -> bytearray:
    content[:8] = rng.choice([2**63, 2**40, 2**31, len(content), len(content) - 8]).to_bytes(8, "little")
    return content


def huge_number(rng: random.Random, content: bytearray) -> bytearray:
    """One small number in the file becomes a huge one, wherever it stands."""
    begin = rng.randrange(max(1, len(content) - 8))
    content[begin : begin + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\x00\x00\x00\x40", b"\xff\xff\xff\xff"])
    return content


def swap_words(rng: random.Random, content: bytearray) -> bytearray:
    for old, new in (
        (b"weight", b"weigth"),
        (b"float", b"fl\x00at"),
        (b"F32", b"F64"),
        (b"<f4", b">f8"),
        (b"<f4", b"|O8"),
    ):
        if rng.random() < 0.5:
            content = content.replace(old, new, rng.choice([1, -1]))
    return content


# -- mutations of the files themselves


def symlinked(rng: random.Random, path: Path) -> None:
    real = path.with_name("elsewhere")
    path.rename(real)
    path.symlink_to(rng.choice([real, real, path, path.with_name("nowhere"), Path("/dev/null"), path.parent]))


def emptied(rng: random.Random, path: Path) -> None:
    if path.is_dir():
        for file in rng.sample(sorted(path.iterdir()), 1):
            file.unlink()
    else:
        path.write_bytes(rng.choice([b"", b"\x00" * 100, b"PK\x03\x04", b"{", b"\x80\x02}.", b"\x89HDF\r\n\x1a\n"]))


ANY_FILE: list[Mutate] = [
    *map(
        on_bytes,
        (
            truncate,
            flip_bits,
            flip_bits,
            flip_in_front,
            flip_at_the_end,
            overwrite,
            drop_range,
            repeat_range,
            append_bytes,
            huge_header,
            huge_number,
            swap_words,
        ),
    ),
    symlinked,
    emptied,
]


# -- mutations of what the file holds


def renamed(rng: random.Random, tensors: Tensors) -> Tensors:
    name = rng.choice(list(tensors))
    new = rng.choice(
        [f"module.{name}", name.upper(), "", "a" * 300, "é\u0000", f"../{name}", "__metadata__", name + "."]
    )
    return {new if old == name else old: value for old, value in tensors.items()}


def dropped(rng: random.Random, tensors: Tensors) -> Tensors:
    return {name: tensors[name] for name in rng.sample(list(tensors), rng.randrange(len(tensors)))}


def doubled(rng: random.Random, tensors: Tensors) -> Tensors:
    name = rng.choice(list(tensors))
    return {**tensors, rng.choice([f"module.{name}", f"copy.{name}"]): tensors[name].clone()}


def reshaped(rng: random.Random, tensors: Tensors) -> Tensors:
    name = rng.choice(list(tensors))
    value = tensors[name]
    return {
        **tensors,
        name: rng.choice([value.flatten(), value[None], value.flatten()[:0], torch.cat([value[None]] * 2)]),
    }


def retyped(rng: random.Random, tensors: Tensors) -> Tensors:
    name = rng.choice(list(tensors))
    dtype = rng.choice([torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64])
    return {**tensors, name: tensors[name].to(dtype)}


def not_finite(rng: random.Random, tensors: Tensors) -> Tensors:
    name = rng.choice([name for name, value in tensors.items() if value.is_floating_point()])
    value = tensors[name].clone()
    value.view(-1)[rng.randrange(value.numel())] = rng.choice([float("nan"), float("inf"), -float("inf")])
    return {**tensors, name: value}


OF_TENSORS = (renamed, dropped, doubled, reshaped, retyped, not_finite)


def of_tensors(format: str) -> list[Mutate]:
    def made(change: Callable[[random.Random, Tensors], Tensors]) -> Mutate:
        def mutate(rng: random.Random, path: Path) -> None:
            try:
                WRITERS[format](path, change(rng, VALUES.get(format, values)()))
            except (ValueError, TypeError, RuntimeError, OSError):
                emptied(rng, path)  # this writer cannot express it

        return mutate

    return [made(change) for change in OF_TENSORS]


def zip_bomb(rng: random.Random, path: Path) -> None:
    """One entry unpacks to 64 MB; the others are as they were."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    swollen = rng.choice(list(parts))
    parts[swollen] = parts[swollen] + bytes(2**26)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def zip_rearranged(rng: random.Random, path: Path) -> None:
    """Entries renamed, dropped, doubled, exchanged or changed in value."""
    with zipfile.ZipFile(path) as archive:
        parts = [(name, archive.read(name)) for name in archive.namelist()]
    at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
    match rng.randrange(5):
        case 0:
            parts[at] = (rng.choice(["../x", "/x", "x/data.pkl", parts[at][0] + "~"]), parts[at][1])
        case 1:
            del parts[at]
        case 2:
            parts.append(parts[at])
        case 3:
            parts[at], parts[other] = (parts[at][0], parts[other][1]), (parts[other][0], parts[at][1])
        case 4:
            parts[at] = (parts[at][0], bytes(flip_bits(rng, bytearray(parts[at][1] or b"x"))))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts:
            archive.writestr(name, content)


def pickle_changed(rng: random.Random, path: Path) -> None:
    """The pickle inside has valid checksums and damaged or hostile instructions."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    content = bytearray(parts[name])
    hostile = [pickle.dumps(value, protocol=2) for value in (print, {"w": os.system}, [1] * 10, {"a": {}}, "text")]
    changes = [flip_bits, overwrite, huge_number, drop_range, repeat_range, truncate, lambda *_: rng.choice(hostile)]
    parts[name] = bytes(rng.choice(changes)(rng, content))
    with zipfile.ZipFile(path, "w") as archive:
        for entry, part in parts.items():
            archive.writestr(entry, part)


def header_changed(rng: random.Random, path: Path) -> None:
    """A safetensors header that is valid JSON and misleads."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    match rng.randrange(6):
        case 0:
            entry["shape"] = rng.choice([[-1], [10**12], [2**63], [2] * 100, "x", None, [1.5], [True], []])
        case 1:
            entry["dtype"] = rng.choice(["F64", "I32", "F8_E4M3", "F4", "X", None, 3, ["F32"]])
        case 2:
            entry["data_offsets"] = rng.choice([[0, 10**15], [-4, 0], [8, 4], [0], "x", None, [0, 4]])
        case 3:
            header["__metadata__"] = rng.choice([None, 3, {"format": 3}, {"format": "tf"}, {"a": {"b": "c"}}, []])
        case 4:
            header[rng.choice(["", "x" * 10**4, "\u0000"])] = dict(entry)
        case 5:
            header = rng.choice([[], 3, {}, {"w": {}}, {"w": 3}, "x" * 1000, [[[[]]]]])
    raw = json.dumps(header).encode() if rng.random() < 0.95 else b"[" * 20_000
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + content[8 + length :])


def h5_retyped(rng: random.Random, file: h5py.File, name: str, value: np.ndarray) -> None:
    del file[name]
    file[name] = value.astype(rng.choice(["f8", "f2", "i8", "u1", "?", "S3", "c8", ">f4"]))


def h5_reshaped(rng: random.Random, file: h5py.File, name: str, value: np.ndarray) -> None:
    del file[name]
    file[name] = rng.choice([np.ravel(value), value[None], np.ravel(value)[:0], np.float32(1)])


def h5_bomb(rng: random.Random, file: h5py.File, name: str, value: np.ndarray) -> None:
    del file[name]
    file.create_dataset(name, (2**20, 2**10), "f4", chunks=(1024, 1024), compression="gzip")


def h5_linked(rng: random.Random, file: h5py.File, name: str, value: np.ndarray) -> None:
    targets = [
        h5py.SoftLink("/nowhere"),
        h5py.SoftLink("/"),
        h5py.ExternalLink("/etc/passwd", "/"),
        file["/"],
        file[name],
    ]
    file[f"{name.rpartition('/')[0]}/link"] = rng.choice(targets)


def h5_attributes(rng: random.Random, file: h5py.File, name: str, value: np.ndarray) -> None:
    holder = file[rng.choice([name, "/", name.partition("/")[0], name.rpartition("/")[0]])]
    for attribute in list(holder.attrs):
        holder.attrs[attribute] = rng.choice([3, "x", "{", b"\xff\xfe", ["a", "b"], np.zeros(3)])


def h5_config(rng: random.Random, file: h5py.File, name: str, value: np.ndarray) -> None:
    if "model_config" in file.attrs:
        file.attrs["model_config"] = config_changed(rng, file.attrs["model_config"])


def h5_not_finite(rng: random.Random, file: h5py.File, name: str, value: np.ndarray) -> None:
    file[name][...] = np.nan


def h5_dropped(rng: random.Random, file: h5py.File, name: str, value: np.ndarray) -> None:
    del file[name]


def h5_renamed(rng: random.Random, file: h5py.File, name: str, value: np.ndarray) -> None:
    file.move(name, rng.choice([f"{name}9", f"x/{name}", "x"]))


def h5_doubled(rng: random.Random, file: h5py.File, name: str, value: np.ndarray) -> None:
    folder, _, leaf = name.rpartition("/")
    group = folder.partition("/")[0]
    file[rng.choice([f"{folder}/{leaf}0", f"{folder}/9", f"copy/{name}", f"{group}/copy/vars/0"])] = value


OF_HDF5 = (
    h5_doubled,
    h5_retyped,
    h5_reshaped,
    h5_bomb,
    h5_linked,
    h5_attributes,
    h5_config,
    h5_config,
    h5_not_finite,
    h5_dropped,
    h5_renamed,
)


def h5_changed(rng: random.Random, path: Path) -> None:
    """What an HDF5 file holds, changed by its own library, so that the file itself is sound."""
    with h5py.File(path, "a") as file:
        names: list[str] = []
        file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        name = rng.choice(names)
        rng.choice(OF_HDF5)(rng, file, name, file[name][()])


def config_changed(rng: random.Random, text: str) -> str:
    """A model config that is valid JSON and misleads."""
    config = json.loads(text)
    layers = config["config"]["layers"]
    layer = rng.choice(layers)
    match rng.randrange(7):
        case 0:
            layer["class_name"] = rng.choice(["Conv2D", "Dense", "Lambda", "Sequential", "Functional", "", 3])
        case 1:
            layer["config"] = rng.choice([{}, None, [], {"name": 3}, {"name": "conv"}])
        case 2:
            layer["config"].update(epsilon=rng.choice([-1, "x", 10**400, None]), scale=rng.choice([0, None, "x"]))
        case 3:
            layer["config"].update(strides=rng.choice([10**12, [10**9] * 2, "x", [-1]]), padding="same", kernel_size=3)
        case 4:
            layers.append(json.loads(text))
        case 5:
            layer["inbound_nodes"] = rng.choice([[[["x", 0, 0, {}]]], [[["conv", 0, 0]]], 3, "x", [[[[[]]]]]])
            config["class_name"] = "Functional"
        case 6:
            layer["build_config"] = rng.choice([{"input_shape": [None, 0, 0, 0]}, {"input_shape": "x"}, 3, []])
    return json.dumps(config)


def keras_changed(rng: random.Random, path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    if rng.random() < 0.5:
        parts["config.json"] = config_changed(rng, parts["config.json"].decode()).encode()
    else:
        inner = path.with_name("inner.h5")
        inner.write_bytes(parts["model.weights.h5"])
        h5_changed(rng, inner)
        parts["model.weights.h5"] = inner.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


MUTATIONS: dict[str, list[Mutate]] = {
    "torch": [*ANY_FILE, *of_tensors("torch"), zip_bomb, zip_rearranged, *[pickle_changed] * 3],
    "lightning": [*ANY_FILE, *of_tensors("lightning"), zip_bomb, zip_rearranged, *[pickle_changed] * 3],
    "legacy": [*ANY_FILE, *of_tensors("legacy")],
    "safetensors": [*ANY_FILE, *of_tensors("safetensors"), *[header_changed] * 4],
    "npz": [*ANY_FILE, *of_tensors("npz"), zip_bomb, zip_rearranged],
    "npz_compressed": [*ANY_FILE, *of_tensors("npz_compressed"), zip_bomb, zip_rearranged],
    "jax": [*ANY_FILE, *of_tensors("jax"), zip_bomb, zip_rearranged],
    "shards": [*ANY_FILE, *of_tensors("shards")],
    "keras": [*ANY_FILE, *[keras_changed] * 8, zip_bomb, zip_rearranged],
    "h5": [*ANY_FILE, *[h5_changed] * 8],
    "weights_h5": [*ANY_FILE, *[h5_changed] * 8],
}


def fresh_copy(original: Path, folder: Path) -> Path:
    folder.mkdir()
    path = folder / "donor"
    if original.is_dir():
        path.mkdir()
        for file in original.iterdir():
            (path / file.name).write_bytes(file.read_bytes())
    else:
        path.write_bytes(original.read_bytes())
    return path


def outcome(path: Path, format: str) -> str:
    """refused or filled; anything else raises."""
    module = TARGETS.get(format, target)()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    options = KerasConfig(flatten={"fc": 4}) if format == "weights_h5" else None
    refusal = ""
    try:
        with open_donor(path, keras=options) as donor:
            for name, info in donor.infos.items():
                value = donor.read(name)
                assert (tuple(value.shape), str(value.dtype)) == (info.shape, f"torch.{info.dtype}")
            ledger = transfer(donor, module)
    except InputError as error:
        refusal = str(error)
        ledger = None
    if ledger is None:
        assert 0 < len(refusal) < 20_000
        for name, value in module.state_dict().items():
            assert torch.equal(value, before[name]), f"{name} changed although the donor was refused"
        return "refused"
    assert {entry.target for entry in ledger.tensors} == set(before)
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    return "filled"


def run(valid: dict[str, Path], folder: Path, format: str, numbers: range) -> dict[str, int]:
    outcomes = {"refused": 0, "filled": 0}
    assert outcome(fresh_copy(valid[format], folder / "as_it_is"), format) == "filled"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for number in numbers:
        rng = random.Random(f"{format} {number}")
        mutate = MUTATIONS[format][number % len(MUTATIONS[format])]
        path = fresh_copy(valid[format], folder / str(number))
        mutate(rng, path)
        begun = time.perf_counter()
        try:
            outcomes[outcome(path, format)] += 1
        except BaseException as error:
            error.add_note(f"{format}: mutation {number}")
            raise
        assert time.perf_counter() - begun < SECONDS, f"{format}: mutation {number} took too long"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert grown < MEMORY, f"{format}: memory grew by {grown} bytes"
    return outcomes


@pytest.mark.parametrize("format", MUTATIONS)
def test_mutated_donors(valid: dict[str, Path], tmp_path: Path, format: str) -> None:
    outcomes = run(valid, tmp_path, format, range(FAST))
    assert outcomes["refused"] > FAST // 4


@pytest.mark.slow
@pytest.mark.parametrize("format", MUTATIONS)
def test_many_mutated_donors(valid: dict[str, Path], tmp_path: Path, format: str) -> None:
    outcomes = run(valid, tmp_path, format, range(FAST, FAST + FULL))
    assert sum(outcomes.values()) == FULL
    assert outcomes["refused"] > FULL // 4
    assert outcomes["filled"] > 0
