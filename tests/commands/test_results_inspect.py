"""graft inspect: what each kind of file holds, and what is said of bad ones."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]


def tensors() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "bn.running_mean": torch.randn(4, generator=generator).half(),
        "bn.num_batches_tracked": torch.tensor(7),
    }


def plain(folder: Path) -> Path:
    torch.save(tensors(), folder / "a.pt")
    return folder / "a.pt"


def contained(folder: Path) -> Path:
    wrapped = {f"module.model.{name}": value for name, value in tensors().items()}
    torch.save({"state_dict": wrapped, "epoch": 3, "pytorch-lightning_version": "2.6.0"}, folder / "a.ckpt")
    return folder / "a.ckpt"


def mapped(folder: Path) -> Path:
    save_file(tensors(), folder / "a.safetensors")
    return folder / "a.safetensors"


def sharded(folder: Path) -> Path:
    for number, (name, value) in enumerate(tensors().items()):
        save_file({name: value}, folder / f"{number}.safetensors")
    where = {name: f"{number}.safetensors" for number, name in enumerate(tensors())}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def arrays(folder: Path) -> Path:
    np.savez(folder / "a.npz", **{name: value.numpy() for name, value in tensors().items()})
    return folder / "a.npz"


@pytest.mark.parametrize(
    ("write", "format", "container", "prefix"),
    [
        (plain, "torch", "", ""),
        (contained, "lightning", "state_dict", "module.model."),
        (mapped, "safetensors", "", ""),
        (sharded, "sharded safetensors", "", ""),
        (arrays, "npz", "", ""),
    ],
)
def test_every_format_tells_what_is_in_it(
    graft, tmp_path: Path, write, format: str, container: str, prefix: str
) -> None:
    path = write(tmp_path)
    code, out, _ = graft("inspect", path, "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["source"], told["format"], told["container"], told["prefix"]) == (str(path), format, container, prefix)
    assert {
        row["name"].removeprefix(prefix): (row["shape"], row["dtype"], row["bytes"]) for row in told["tensors"]
    } == {
        "conv.weight": ([4, 3, 3, 3], "float32", 432),
        "bn.running_mean": ([4], "float16", 8),
        "bn.num_batches_tracked": ([], "int64", 8),
    }
    assert (told["values"], told["bytes"], told["nan"], told["inf"]) == (113, 448, 0, 0)
    assert told["dtypes"] == {"float32": 1, "float16": 1, "int64": 1}
    if path.is_file():
        assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
# Keras' Variable.__array__ has no `copy` keyword yet, which NumPy 2 wants: keras-team/keras#21319.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("file", ["model.keras", "model.h5", "model.weights.h5"])
def test_keras_files_tell_what_is_in_them(graft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), layers.Conv2D(4, 3, name="c1"), layers.Flatten(), layers.Dense(2, name="fc1")]
    )
    words: tuple[str, ...] = ()
    if file == "model.weights.h5":
        model.save_weights(tmp_path / file)
        code, out, _ = graft("inspect", tmp_path / file)
        assert code == 0
        assert "in a transfer, fc1: its 16 features may come from a Flatten" in out
        words = ("--keras", "flatten={fc1: 4}")
    else:
        model.save(tmp_path / file)
    code, out, err = graft("inspect", tmp_path / file, "--json", *words)
    assert code == 0, err
    told = json.loads(out)
    assert told["format"] == "keras"
    assert {row["name"]: row["shape"] for row in told["tensors"]} == {
        "c1.weight": [4, 3, 3, 3],
        "c1.bias": [4],
        "fc1.weight": [2, 16],
        "fc1.bias": [2],
    }


def test_a_run_s_folder_and_what_it_most_likely_is(graft, timm_model: Path) -> None:
    code, out, _ = graft("inspect", timm_model.parent)
    assert code == 0
    lines = {line.split("  ")[0]: line.split("  ", 1)[1].strip() for line in out.splitlines() if "  " in line}
    assert lines["likely"].startswith("timm test_efficientnet: every name and shape of its trunk (")
    assert lines["likely"].endswith("its last layer for 3 classes")
    assert lines["remark"] == f"the exported model of the run in {timm_model.parent}"
    assert lines["finite"] == "all"
    assert lines["sha256"] == hashlib.sha256((timm_model / "model.safetensors").read_bytes()).hexdigest()
    assert "conv_stem.weight" in out


def test_what_is_not_finite_is_counted(graft, tmp_path: Path) -> None:
    value = torch.tensor([1.0, float("nan"), float("inf"), float("-inf")])
    save_file({"bad": value, "half": value.half(), "good": torch.ones(2), "count": torch.tensor(3)}, tmp_path / "a")
    told = json.loads(graft("inspect", tmp_path / "a", "--json")[1])
    assert {row["name"]: (row["nan"], row["inf"]) for row in told["tensors"]} == {
        "bad": (1, 2),
        "half": (1, 2),
        "good": (0, 0),
        "count": (0, 0),
    }
    out = graft("inspect", tmp_path / "a")[1]
    assert "finite        2 NaN, 4 infinite" in out
    assert [line.split() for line in out.splitlines() if line.startswith("bad ")] == [
        ["bad", "4", "float32", "16", "1", "2"]
    ]


def test_averaged_weights_and_containers_are_chosen_by_option(graft, tmp_path: Path) -> None:
    both = {"state_dict": {"w": torch.zeros(2)}, "state_dict_ema": {"w": torch.ones(2), "v": torch.ones(1)}}
    torch.save(both, tmp_path / "a.pt")
    assert [row["name"] for row in json.loads(graft("inspect", tmp_path / "a.pt", "--json")[1])["tensors"]] == ["w"]
    averaged = json.loads(graft("inspect", tmp_path / "a.pt", "--json", "--ema")[1])
    assert (averaged["container"], len(averaged["tensors"])) == ("state_dict_ema", 2)
    torch.save({"student": {"w": torch.zeros(2)}, "teacher": {"w": torch.ones(2)}}, tmp_path / "b.pt")
    code, _, err = graft("inspect", tmp_path / "b.pt")
    assert (code, "try: --container student" in err) == (2, True)
    assert graft("inspect", tmp_path / "b.pt", "--container", "teacher")[0] == 0


def test_a_narrow_terminal_folds_and_cuts_nothing(graft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "48")
    name = "a.module.with.a.rather.long.name.for.its.weight"
    save_file({name: torch.ones(3, 4)}, tmp_path / "a")
    table = graft("inspect", tmp_path / "a")[1].split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 48
    assert "".join(line[:20].strip() for line in table[2:]).startswith(name[:12])
    monkeypatch.delenv("COLUMNS")
    assert any(line.startswith(name) for line in graft("inspect", tmp_path / "a")[1].splitlines())


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def cut_off(path: Path) -> None:
    save_file(tensors(), path)
    path.write_bytes(path.read_bytes()[:-9])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "an empty file"),
    "text": (lambda path: path.write_text("some words\n"), "text that begins 'some words"),
    "cut off": (cut_off, "damaged"),
    "code": (lambda path: torch.save({"w": RunsCode()}, path), "would run code"),
    "no tensors": (lambda path: torch.save({"epoch": 3}, path), "no tensors under names (it holds epoch (int))"),
    "folder": (lambda path: path.mkdir(), "an empty folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_paragraph_and_code_2(graft, tmp_path: Path, monkeypatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    write, word = BAD[case]
    write(tmp_path / "bad")
    code, out, err = graft("inspect", tmp_path / "bad")
    assert (code, out) == (2, "")
    assert err.startswith("graft: ")
    assert word in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "executed").exists()


def test_an_option_that_the_format_has_not_is_called_by_its_flag(graft, tmp_path: Path) -> None:
    code, _, err = graft("inspect", mapped(tmp_path), "--ema")
    assert (code, "--ema" in err, "donor.ema" in err) == (2, True, False)
    code, _, err = graft("inspect", mapped(tmp_path), "--keras", "inptu=bgr")
    assert (code, "inptu" in err) == (2, True)
