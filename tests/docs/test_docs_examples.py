"""What `graft` exports is documented, and the examples in there run and give what they say."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

import pytest
from PIL import Image

import graft
from graft.config.schema import Library
from graft.pipeline.session import plan
from tests.exported import export_small, network

FAULTS = ("InputError", "RunFailed")
"""What is raised has no example."""
EXPORTS = {name: getattr(graft, name) for name in graft.__all__ if name not in FAULTS} | {
    "transfer": graft.transfer.transfer,
    "plan": plan,
}


def pictures(folder: Path) -> Path:
    """Two classes of ten images, no two of which are alike."""
    for color in ("red", "teal"):
        (folder / color).mkdir(parents=True)
        for number in range(10):
            image = Image.new("RGB", (70, 70), color)
            image.putpixel((number, number), (255, 255, 255))
            image.save(folder / color / f"{number}.png")
    return folder


@pytest.mark.parametrize("name", EXPORTS)
def test_the_example_of_each_export_runs(name: str, tmp_path: Path) -> None:
    exported = EXPORTS[name]
    places = {
        "folder": export_small(tmp_path / "model", network(Library.timm, "test_resnet")),
        "picture": Image.new("RGB", (80, 70), "teal"),
        "pictures": pictures(tmp_path / "pictures"),
        "empty": tmp_path,
    }
    names = {**vars(sys.modules[exported.__module__]), **places}
    (example,) = doctest.DocTestFinder(recurse=False).find(exported, name, globs=names)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
