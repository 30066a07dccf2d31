"""Every command of docs/donors.md runs as it is typed, in a folder with the files that it names, made small."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from tests.docs.test_docs_commands import ROOT, typed

os.environ["KERAS_BACKEND"] = "torch"
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="keras-home-"))

# Keras' Variable.__array__ has no `copy` keyword yet, which NumPy 2 wants: keras-team/keras#21319.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
PAGE = ROOT / "docs" / "donors.md"
SMALL = (
    "data=folder", "data.root=images", "data.image_size=32", "data.batch_size=4", "data.num_workers=0",
    "trainer.max_epochs=1", "seed=0",
)  # fmt: skip
GRAFT = "from graft.commands.cli import main; raise SystemExit(main())"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
BACKBONE = "efficientnet_lite0"
"""The default."""


def chosen() -> list[str]:
    """What the page's first table says to type for each kind of donor."""
    table = PAGE.read_text(encoding="utf-8").split("| you have | you type |")[1].split("\n\n")[0]
    cells = [re.findall(r"`([^`]+)`", line.split("|")[2]) for line in table.splitlines()[2:]]
    assert all(cells)
    return [word if word.startswith("donor=") else f"donor=file donor.path={word}" for cell in cells for word in cell]


def weights() -> dict[str, torch.Tensor]:
    return timm.create_model(BACKBONE).state_dict()


def checkpoint(path: Path) -> None:
    averaged = {name: value + 0.01 if value.is_floating_point() else value for name, value in weights().items()}
    torch.save({"state_dict": weights(), "state_dict_ema": averaged, "epoch": 3}, path)


def encoder(path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    torch.save({f"encoder.{name}": value for name, value in state.items() if not name.startswith("fc.")}, path)


def package(path: Path) -> None:
    path.mkdir()
    (path / "module.py").write_text(f"import timm\n\n\ndef function():\n    return timm.create_model('{BACKBONE}')\n")


def folder(path: Path) -> None:
    path.mkdir(parents=True)
    save_file(weights(), path / "model.safetensors")


def download(path: Path) -> None:
    """OWNER/NAME as the hub's client leaves it in HF_HOME, the folder that `path` lies in."""
    cached = path.parent / "hub" / "models--OWNER--NAME"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT)
    folder(cached / "snapshots" / COMMIT)


def application(name: str) -> Callable[[Path], None]:
    """A file of Keras' own network, from random weights."""

    def write(path: Path) -> None:
        import keras

        keras.utils.set_random_seed(0)
        model = getattr(keras.applications, name)(weights=None, classes=3, classifier_activation=None)
        model.save_weights(path) if path.name.endswith(".weights.h5") else model.save(path)

    return write


def hugging_face(network: str, config: str, **sizes: Any) -> Callable[[Path], None]:
    """A folder as transformers saves it, from random weights."""

    def write(path: Path) -> None:
        import transformers

        transformers.set_seed(0)
        getattr(transformers, network)(getattr(transformers, config)(**sizes)).save_pretrained(path)

    return write


def finished_run(path: Path) -> None:
    checkpoint(path.parents[1] / "weights.pth")
    carry_out(f"python train.py donor=file donor.path=weights.pth hydra.run.dir={path}", path.parents[1], SMALL)


FILES: dict[str, Callable[[Path], None]] = {
    "weights.pth": checkpoint,
    "encoder.pt": encoder,
    "outputs/RUN": finished_run,
    "package": package,
    "FOLDER": folder,
    "OWNER": download,
    "model.keras": application("EfficientNetB0"),
    "vgg16.weights.h5": application("VGG16"),
    "resnet50.weights.h5": application("ResNet50"),
    "efficientnetb0.weights.h5": application("EfficientNetB0"),
    "vit-base-patch16-224": hugging_face("ViTForImageClassification", "ViTConfig", num_labels=1000),
    "dinov2-with-registers-small": hugging_face(
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        hidden_size=384,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
    ),
    "resnet-50": hugging_face("ResNetForImageClassification", "ResNetConfig", num_labels=1000),
    "swin-tiny-patch4-window7-224": hugging_face("SwinForImageClassification", "SwinConfig", num_labels=1000),
}
"""What the page's commands name, and how it is made."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images to learn from; the files that a command names are made when it is carried out."""
    place = tmp_path_factory.mktemp("donors")
    generator = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for number in range(2 * count):
            path = place / "images" / part / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return place


def carry_out(command: str, place: Path, further: Sequence[str] = ()) -> str:
    """A command of the page in a process of its own, in `place`, with nothing but what lies there."""
    typed_words = shlex.split(command, comments=True)
    given = {word.partition("=")[0] for word in typed_words}
    words = [*typed_words, *(word for word in further if word.partition("=")[0] not in given)]
    first = [sys.executable, str(ROOT / words[1])] if words[0] == "python" else [sys.executable, "-c", GRAFT, words[1]]
    paths = [str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [*first, *words[2:]], cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HOME": str(place), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def provide(command: str, place: Path) -> None:
    """Makes what the command names and is not there yet."""
    for name, make in FILES.items():
        if re.search(rf"\b{re.escape(name)}\b", command) and not (place / name).exists():
            make(place / name)


@pytest.mark.slow
@pytest.mark.parametrize("words", chosen())
def test_what_the_table_says_to_type_is_planned(words: str, place: Path) -> None:
    provide(words, place)
    run = place / "plan"
    carry_out(f"python train.py {words}", place, [*SMALL, "mode=plan", f"hydra.run.dir={run}"])
    account = json.loads((run / "plan.json").read_text())["ledger"]
    assert (account["parameters_transferred_fraction"] > 0.7) == ("donor=none" not in words)


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in typed(PAGE) if command.startswith("python train.py")])
def test_a_run_of_the_page_trains(command: str, place: Path) -> None:
    provide(command, place)
    run = place / "run"
    carry_out(command, place, [*SMALL, f"hydra.run.dir={run}"])
    account = json.loads((run / "transfer.json").read_text())["summary"]
    assert account["parameters_transferred_fraction"] > 0.9
    assert json.loads((run / "metrics.json").read_text())["frozen_verified"] is True
    shutil.rmtree(run)


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in typed(PAGE) if command.startswith("graft ")])
def test_a_command_of_the_page_ends_well(command: str, place: Path) -> None:
    provide(command, place)
    made = [word for flag, word in pairwise(shlex.split(command, comments=True)) if flag in ("--out", "--plot")]
    assert carry_out(command, place)
    assert all((place / name).stat().st_size > 1000 for name in made)
