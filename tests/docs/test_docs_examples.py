"""What `graft` exports is documented, and the examples in there run and give what they say."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

import pytest
from PIL import Image

import graft
from graft.config.schema import Library
from tests.exported import export_small, network

EXPORTS = {name: getattr(graft, name) for name in graft.__all__} | {"transfer": graft.transfer.transfer}


@pytest.mark.parametrize("name", EXPORTS)
def test_the_example_of_each_export_runs(name: str, tmp_path: Path) -> None:
    exported = EXPORTS[name]
    places = {
        "folder": export_small(tmp_path / "model", network(Library.timm, "test_resnet")),
        "picture": Image.new("RGB", (80, 70), "teal"),
    }
    names = {**vars(sys.modules[exported.__module__]), **places}
    (example,) = doctest.DocTestFinder(recurse=False).find(exported, name, globs=names)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
