"""model.json may be a stranger's: it is opened, or refused by name; it opens no other file, and takes no memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

import graft
from graft.config.faults import InputError
from tests.json_mutations import mutated


@pytest.fixture
def model(timm_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(timm_model, tmp_path / "model")


def edit(folder: Path, key: str, **changes: Any) -> None:
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**record, key: {**record[key], **changes}}))


@pytest.mark.parametrize(
    ("key", "changes", "reason"),
    [
        ("preprocess", {"image_size": -3}, "a whole number from 1 to 8192, received int -3"),
        ("preprocess", {"image_size": "64"}, "received str '64'"),
        ("preprocess", {"image_size": 10**6}, "received int 1000000"),
        ("preprocess", {"mean": [0.5]}, "expected mean and std of 3 channels, received 1 and 3"),
        ("preprocess", {"crop_fraction": 0}, "a number from 0.01 to 1, received int 0"),
        ("preprocess", {"std": [0.5, 0, 0.5]}, "received int 0"),
        ("build", {"kwargs": {"checkpoint_path": "/etc/passwd"}}, "arguments that open no files, received checkpoint"),
        ("build", {"kwargs": {"pretrained": True}}, "arguments that open no files, received pretrained"),
        ("build", {"name": "hf-hub:someone/something"}, "expected one of the"),
        ("build", {"num_classes": 4}, "expected a name for each of 4 outputs, received 3"),
    ],
)
def test_values_that_do_not_fit_are_named(model: Path, key: str, changes: dict[str, Any], reason: str) -> None:
    edit(model, key, **changes)
    with pytest.raises(InputError, match=reason):
        graft.load(model)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("plant", ["fifo", "zero"])
def test_what_is_no_file_hangs_nobody(model: Path, name: str, plant: str) -> None:
    (model / name).unlink()
    if plant == "fifo":
        os.mkfifo(model / name)
    else:
        (model / name).symlink_to("/dev/zero")
    with pytest.raises(InputError):
        graft.load(model)


def check_record(folder: Path, record: Any, change: Callable[[Any], Any]) -> None:
    (folder / "model.json").write_text(json.dumps(change(record)))
    with suppress(InputError):
        assert len(graft.load(folder).classes) == 3


@settings(max_examples=25, deadline=None)
@given(change=mutated())
def test_any_record_opens_or_is_refused(
    timm_model: Path, change: Callable[[Any], Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = shutil.copytree(timm_model, tmp_path_factory.mktemp("crafted") / "model")
    check_record(folder, json.loads((folder / "model.json").read_text()), change)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(change=mutated())
def test_any_of_many_records_opens_or_is_refused(
    timm_model: Path, change: Callable[[Any], Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = shutil.copytree(timm_model, tmp_path_factory.mktemp("crafted") / "model")
    check_record(folder, json.loads((folder / "model.json").read_text()), change)
