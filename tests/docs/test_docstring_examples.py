"""The examples in the docstrings of functions that `graft` does not export run too, and give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import graft

SRC = Path(graft.__file__).parent
EXPORTED = {*graft.__all__, "plan"}
"""Their examples need files, which test_docs_examples.py gives them."""


def modules() -> list[str]:
    paths = sorted(path for path in SRC.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))
    return [".".join(("graft", *path.relative_to(SRC).with_suffix("").parts)) for path in paths]


def examples(module: str) -> list[doctest.DocTest]:
    every = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module.removesuffix(".__init__")))
    return [each for each in every if each.examples and EXPORTED.isdisjoint(each.name.split("."))]


@pytest.mark.parametrize("module", [module for module in modules() if not module.endswith("__init__")])
def test_the_examples_of_a_module_run(module: str) -> None:
    for example in examples(module):
        assert doctest.DocTestRunner().run(example).failed == 0, example.name


def test_the_examples_that_are_there_are_seen() -> None:
    assert {each.name for each in examples("graft.heads.ridge")} == {"graft.heads.ridge.solve_ridge"}
