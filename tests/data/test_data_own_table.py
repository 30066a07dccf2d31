"""data=custom: the images that a function of a user's own lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graft.config.choices import DataKind
from graft.config.faults import InputError
from graft.config.presets import composed
from graft.config.schema_images import DataConfig
from graft.data.datasets import load_table
from graft.data.table import Table


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(5):
            pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


def table(target: str, **kwargs: Any) -> Table:
    return load_table(DataConfig(kind=DataKind.custom, target=f"tests.own_data:{target}", kwargs=kwargs))


@pytest.mark.parametrize("target", ["rows", "pairs"])
def test_rows_become_samples_with_an_identity(pictures: Path, target: str) -> None:
    listed = table(target, folder=str(pictures))
    assert listed.classes == ("cat", "dog")
    assert len(listed.train) + len(listed.val) == 10
    assert all(sample.content for sample in listed.train)


def test_parts_are_those_of_split(pictures: Path) -> None:
    listed = table("rows", folder=str(pictures), split=True)
    assert [Path(sample.path).stem for sample in listed.val] == ["0", "0"]
    assert len(listed.train) == 8


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("tensors", r"rows of path, label and perhaps split .* received a float \(0\.5\); items that are not files"),
        ("broken", r"received KeyError: .*\n  .*own_data.py, line \d+, in broken"),
        ("rwos", "try tests.own_data:rows"),
    ],
)
def test_what_is_wrong_is_said(target: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        table(target)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data=custom"], "data.target: expected the import path of a function that lists the images"),
        (["data=custom", "data.target=nosuchpackage:rows"], "a module that exists"),
        (["data.target=tests.own_data:rows"], "data.target: expected nothing with data=solar_cells"),
    ],
)
def test_mistakes_of_the_config(words: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        composed(words)
