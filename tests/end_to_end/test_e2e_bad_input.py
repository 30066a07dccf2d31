"""Bad donors and bad folders: one paragraph, exit code 2, nothing half-written.

Commands show the exit code and the paragraph, one of each kind; the others are run in this process, which is quicker.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision

from benchmarks.composed import composed
from graft.config.faults import InputError
from graft.pipeline.run import run

Train = Callable[..., subprocess.CompletedProcess[str]]

SMALL = (
    "backbone=resnet18",
    "freeze=none",
    "data=folder",
    "data.image_size=32",
    "data.batch_size=8",
    "trainer.max_epochs=1",
)


class RunsCode:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return torchvision.models.resnet18().state_dict()


def refusal(tmp_path: Path, *words: str) -> str:
    """The reason for which a run of these words is refused."""
    given = [*SMALL, *words]
    with pytest.raises(InputError) as refused:
        run(composed(*given), tmp_path / "run", given)
    return str(refused.value)


def directory(path: Path) -> None:
    path.mkdir()


def truncated(path: Path) -> None:
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:100_000])


def other_architecture(path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), path)


def one_other_shape(path: Path) -> None:
    torch.save(state() | {"layer2.0.conv1.weight": torch.zeros(128, 64, 5, 5)}, path)


def with_nans(path: Path) -> None:
    tensors = state()
    tensors["layer3.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(tensors, path)


def with_code(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": RunsCode(path.with_name("executed"))}))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (directory, ["folder", "empty"]),
        (truncated, ["donor"]),
        (other_architecture, ["features.0.weight", "conv1.weight"]),
        (one_other_shape, ["layer2.0.conv1.weight", "5", "3"]),
        (with_nans, ["layer3.0.conv1.weight", "NaN"]),
        (with_code, ["donor"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_bad_donor_is_refused(images: Path, tmp_path: Path, make: Callable[[Path], None], words: list[str]):
    donor = tmp_path / "donor"
    make(donor)
    reason = refusal(tmp_path, f"data.root={images}", "donor=file", f"donor.path={donor}")
    assert str(donor) in reason or "layer" in reason
    for word in words:
        assert word.lower() in reason.lower()
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "model").exists()


def test_a_bad_donor_ends_the_command_with_code_2(train: Train, images: Path, tmp_path: Path):
    donor = tmp_path / "donor"
    one_other_shape(donor)
    done = train(*SMALL, f"data.root={images}", "donor=file", f"donor.path={donor}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "layer2.0.conv1.weight" in done.stderr


def test_a_module_prefix_is_handled_and_said(train: Train, images: Path, tmp_path: Path):
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state().items()}}, tmp_path / "donor.pth")
    words = ("donor=file", f"donor.path={tmp_path / 'donor.pth'}", "donor.verify=true")
    done = train(*SMALL, f"data.root={images}", *words)
    assert done.returncode == 0, done.stderr
    assert "module." in done.stdout
    assert "verified  2 images of 3×32×32" in done.stdout
    ledger = json.loads((tmp_path / "run" / "transfer.json").read_text())
    assert ledger["summary"]["initialized"] == 2
    assert ledger["donor"]["verified"]["largest_difference"] == 0.0


@pytest.mark.slow
def test_a_trunk_that_computes_something_else_does_not_train(train: Train, images: Path, tmp_path: Path):
    torch.save(state() | {"bn1.bias": torch.rand(64), "bn1.running_mean": torch.rand(64)}, tmp_path / "donor.pth")
    swap = r"donor.rename=[['^bn1\.bias$','x'],['^bn1\.running_mean$','bn1.bias'],['^x$','bn1.running_mean']]"
    words = ("donor=file", f"donor.path={tmp_path / 'donor.pth'}", "donor.verify=true", swap)
    done = train(*SMALL, f"data.root={images}", *words)
    assert done.returncode == 2
    assert "donor.verify: expected features within" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "transfer.json").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    "case", ["empty", "one class", "class without images", "mismatch", "truncated", "zero bytes", "text"]
)
def test_a_bad_folder_is_refused(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str):
    picture = next((images / "train" / "across").iterdir())
    if case == "empty":
        images = tmp_path / "nothing"
        images.mkdir()
    elif case == "one class":
        for part in ("train", "val", "test"):
            (images / part / "down").rename(tmp_path / f"{part}-down")
    elif case == "class without images":
        (images / "train" / "diagonal").mkdir()
        (images / "val" / "diagonal").mkdir()
    elif case == "mismatch":
        (images / "val" / "down").rename(images / "val" / "up")
    elif case == "truncated":
        picture = picture.with_suffix(".jpg")
        from PIL import Image

        Image.new("RGB", (64, 64), (200, 10, 10)).save(picture)
        picture.write_bytes(picture.read_bytes()[:300])
    elif case == "zero bytes":
        picture.write_bytes(b"")
    else:
        picture = picture.with_suffix(".jpg")
        picture.write_text("this is not a picture")
    reason = refusal(tmp_path, f"data.root={images}", "donor=none")
    if case in ("truncated", "zero bytes", "text"):
        assert picture.name in reason
        assert "data.on_error=skip" in reason
        words = [*SMALL, f"data.root={images}", "donor=none", "data.on_error=skip"]
        run(composed(*words), tmp_path / "run", words)
        assert picture.name in capsys.readouterr().out


def test_a_bad_picture_ends_the_command_with_code_2(train: Train, images: Path):
    picture = next((images / "train" / "across").iterdir())
    picture.write_bytes(b"")
    done = train(*SMALL, f"data.root={images}", "donor=none")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert picture.name in done.stderr


def test_an_output_folder_that_cannot_be_written(train: Train, images: Path, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    done = train(*SMALL, f"data.root={images}", "donor=none", f"hydra.run.dir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr
