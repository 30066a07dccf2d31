"""`python -m benchmarks`: what it lists, what it refuses, and small sizes of its cases."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import CASES
from benchmarks.__main__ import dispatch
from benchmarks.case import Against, Comparison, Limit, Measured, Way
from benchmarks.decoders import decoders
from benchmarks.measure import measure
from benchmarks.pictures import generated
from graft.config.faults import InputError, RunFailed

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_case_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch([]) == 0
    said = capsys.readouterr().out
    assert all(f"{name} " in said for name in CASES)


def test_it_measures_and_writes_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    words = ["transfer", "--model", "squeezenet1_1", "--repeats", "3", "--threads", "1", "--json", str(file)]
    assert dispatch([*words]) == 0
    figures = json.loads(file.read_text())
    assert figures["case"] == "transfer"
    assert figures["machine"]["threads"] == 1
    times = figures["comparisons"][0]
    assert len(times["ours"]["values"]) == len(times["others"][0]["values"]) == 3
    assert times["others"][0]["promise"] == "at most 1.3"
    assert 0.2 < times["others"][0]["ratio"] < 50
    said = capsys.readouterr().out
    assert f"{times['others'][0]['ratio']:.3g}" in said
    assert "load_file + load_state_dict" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["transfer", "--repeats", "0"], "--repeats 1"),
        (["transfer", "--threads", "0"], "--threads 1"),
        (["transfer", "--model", "resnet5"], "resnet50"),
        (["frozen", "--epochs-peer", "31"], "--epochs-peer 1"),
        (["frozen", "--epochs-peer", "0"], "expected 1 to 30"),
        (["scale", "--sizes", "1000"], "--sizes 1000,10000"),
        (["scale", "--sizes", "many,more"], "--sizes 1000,10000"),
    ],
)
def test_mistakes_are_answered(words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        dispatch([*words])


def test_a_case_that_runs_train_py_says_where_it_must_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cd"):
        dispatch(["config"])


def test_a_promise_that_is_not_kept_ends_a_check_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(args: Namespace, folder: Path) -> list[Comparison]:
        ours, other = (Way(name=name, measure=lambda: Measured(value=2.0)) for name in ("ours", "other"))
        return [Comparison(what="lame", ours=ours, others=[Against(way=other, limit=Limit(factor=8, faster=True))])]

    lame = SimpleNamespace(REPEATS=1, configure=lambda parser: None, make=make)
    monkeypatch.setitem(sys.modules, "lame_case", lame)
    monkeypatch.setitem(CASES, "lame", ("lame_case", "a case that keeps no promise"))
    assert dispatch(["lame"]) == 0
    with pytest.raises(RunFailed, match="lame: ours times as fast: 1 beside other, promised at least 8"):
        dispatch(["lame", "--check"])


def test_kept_images_are_measured_as_images_and_as_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    file = tmp_path / "figures.json"
    words = ["images", "--images", "8", "--width", "40", "--height", "30", "--repeats", "1", "--threads", "1"]
    assert dispatch([*words, "--json", str(file)]) == 0
    images, batches = json.loads(file.read_text())["comparisons"]
    assert images["what"] == "8 JPEGs of 40 by 30 pixels, as images of 256 pixels, before they are cut and scaled"
    assert batches["what"] == "8 JPEGs of 40 by 30 pixels, as batches of 32 at 224 pixels"
    assert images["others"][0]["promise"] == batches["others"][0]["promise"] == "at least 8"


def test_decoders_are_measured_beside_each_other(tmp_path: Path) -> None:
    paths = [str(path) for path in generated(tmp_path, {"train": 2}, size=(200, 160)).rglob("*.jpg")]
    figures = measure(decoders(paths, what="2 JPEGs", edge=32), repeats=1)
    assert figures["what"] == "2 JPEGs, decoded and resized to 32 pixels"
    apart = {each["name"]: each["beside"][0] for each in (figures["ours"], *figures["others"])}
    assert all(0.05 < told["grey levels apart"] < 0.6 for name, told in apart.items() if "reduced" in name)
    assert all(told["at most"] <= 1 for name, told in apart.items() if "whole" in name)
    assert len(apart) == 4


def test_a_decoder_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.decoders.PACKAGE", "no_such_decoder")
    with pytest.raises(InputError, match=r"no_such_decoder.*graft-transfer\[bench\]"):
        dispatch(["images", "--decoders"])


def test_an_engine_agrees_with_what_it_is_measured_against(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    file = tmp_path / "figures.json"
    words = ["inference", "--backbones", "resnet18", "--batch-size", "1", "--repeats", "1", "--threads", "1"]
    assert dispatch([*words, "--json", str(file)]) == 0
    exact, *in_bf16 = json.loads(file.read_text())["comparisons"]
    assert 0 <= exact["ours"]["beside"][0]["largest relative difference"] < 1e-4
    assert exact["others"][0]["promise"] == "at least 1"
    for figures in in_bf16:  # where the processor has units for it
        assert 0 <= figures["ours"]["beside"][0]["largest relative difference"] < 0.05
        assert figures["others"][0]["promise"] == "at least 3"
