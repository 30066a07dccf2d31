"""Training from Python: the words that values become, what a run offers, and that the process goes on as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import graft
from graft.config.choices import HeadKind
from graft.config.faults import ConfigError, InputError
from graft.config.overrides import words_of
from graft.config.presets import composed
from graft.pipeline import session

SMALL = ("backbone=timm", "backbone.name=test_resnet", "donor=none", "freeze=none", "data=folder")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for color in ("red", "teal"):
        (folder / color).mkdir()
        for number in range(12):
            image = Image.new("RGB", (40, 40), color)
            image.putpixel((number, number), (255, 255, 255))
            image.save(folder / color / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def done(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> session.Run:
    folder = tmp_path_factory.mktemp("runs")
    return graft.train(
        *SMALL, f"cache.dir={folder}/cache", data={"root": pictures, "image_size": 32},
        trainer={"max_epochs": 1, "threads": 1, "progress": False},
        folder=folder / "a run", quiet=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "resnet50", "seed": 3}, ["backbone=resnet50", "seed=3"]),
        ({"optimizer": {"lr": 1e-4, "lr_scale": {"head": 5}}}, ["optimizer.lr=0.0001", "optimizer.lr_scale={head: 5}"]),
        ({"data": {"root": Path("my photos")}}, ["data.root='my photos'"]),
        ({"head": {"kind": HeadKind.linear, "dropout": 0.5}}, ["head.kind=linear", "head.dropout=0.5"]),
        (
            {"freeze": ["conv1", "layer1"], "trainer": {"compile": True}},
            ["freeze=[conv1, layer1]", "trainer.compile=true"],
        ),
        ({"resume": "1e3", "data": {"image_size": None}}, ["resume='1e3'", "data.image_size=null"]),
        ({"experiment": "it's"}, ["experiment='it\\'s'"]),
    ],
)
def test_values_become_the_words_that_a_shell_would_have(settings: dict[str, Any], words: list[str]) -> None:
    assert words_of((), settings, None) == words


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert words_of((), {}, "~/run") == ["hydra.run.dir='/home/ann/run'"]


def test_words_come_in_order_and_mean_the_values() -> None:
    words = words_of(["seed=1"], {"seed": 2, "freeze": ["conv1"], "donor": {"rename": {"^a: b": "c, d"}}}, "a/b c")
    assert words[-1] == "hydra.run.dir='a/b c'"
    config = composed([word for word in words if not word.startswith("donor.rename")])
    assert (config.seed, config.freeze) == (2, ["conv1"])


def test_an_object_is_no_word() -> None:
    with pytest.raises(InputError, match=r"head\.target: expected text, a number, .* received a SimpleNamespace"):
        words_of((), {"head": {"target": SimpleNamespace()}}, None)


def test_a_run_offers_what_its_folder_holds(done: session.Run) -> None:
    assert done.folder.name == "a run"
    assert (done.folder / ".hydra" / "config.yaml").is_file()
    assert done.metrics["epochs"] == 1
    assert done.model.classes == ("red", "teal")
    assert (
        len(done.predictions["val"].paths) == done.metrics["intervals"]["val"]["images"]
        if "images" in done.metrics["intervals"].get("val", {})
        else True
    )
    assert done.report.read_text(encoding="utf-8").startswith("<!")
    assert str(done).startswith(f"run {done.folder}\ntrain ")
    page = done._repr_html_()
    assert f"{done.metrics['val/accuracy']:.4g}" in page
    assert "<iframe srcdoc=" in page


def test_mistakes_are_raised_together_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        graft.train("optimizer.lrr=1", "backbone=resnet5", folder=tmp_path / "run")
    assert len(caught.value.faults) == 2
    with pytest.raises(InputError, match="expected a folder that exists"):
        graft.train(*SMALL, data={"root": tmp_path / "none"}, folder=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_is_the_commands_and_writes_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = session.plan(*SMALL, data={"root": pictures, "image_size": 32})
    assert seen.record["parameters"]["frozen"] == 0
    assert "test_resnet, head linear" in str(seen)
    assert list(tmp_path.iterdir()) == []


def test_plan_and_transfer_are_packages_and_functions(pictures: Path) -> None:
    code = (
        "import graft, graft.plan.plan, graft.transfer.rules\n"
        f"print(graft.plan(*{SMALL!r}, data=dict(root={str(pictures)!r})).record['classes'], callable(graft.transfer))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.stdout == "['red', 'teal'] True\n", ended.stderr


def test_a_signal_stops_in_good_order_and_leaves_the_process_as_it_was(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    real = session.run

    def interrupted(*arguments: Any) -> float | None:
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(session, "run", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGINT"):
        graft.train(*SMALL, data={"root": pictures, "image_size": 32}, folder=tmp_path / "run", quiet=True)
    assert signal.getsignal(signal.SIGINT) is handler
