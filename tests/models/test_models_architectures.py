"""Models told by the names and shapes of their tensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.config.choices import Library
from graft.models.architectures import recognise, row_of, table
from graft.models.backbones import construct, model_names

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "index_architectures.py"
ROWS = {(row.library, row.name): row for row in table()}
Shapes = dict[str, tuple[int, ...]]


def shapes(library: str, name: str, classes: int = 7, **kwargs) -> Shapes:
    module = construct(Library(library), name, kwargs, num_classes=classes, device="meta")
    return {tensor: tuple(value.shape) for tensor, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def resnet18() -> Shapes:
    return shapes("torchvision", "resnet18")


@pytest.fixture(scope="module")
def index() -> Callable:
    """What the script makes of one model."""
    spec = importlib.util.spec_from_file_location("index_architectures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.index


def test_the_table_holds_each_model_once_and_nearly_all_of_both_libraries() -> None:
    assert len(ROWS) == len(table())
    for library in (Library.torchvision, Library.timm):
        mine = {name for owner, name in ROWS if owner == library.value}
        assert len(mine & set(model_names(library))) > 0.85 * len(model_names(library))


@pytest.mark.parametrize("key", [("timm", "test_efficientnet"), ("torchvision", "squeezenet1_1"), ("timm", "test_vit")])
def test_a_row_is_what_the_installed_library_builds(index, key: tuple[str, str]) -> None:
    assert index(Library(key[0]), key[1]) == ROWS[key]


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_every_fortieth_row_is_what_the_installed_library_builds(index, library: str) -> None:
    names = [name for owner, name in ROWS if owner == library][::40]
    assert len(names) > 1
    for name in names:
        assert index(Library(library), name) == ROWS[library, name], name


def test_names_and_shapes_tell_the_model_and_its_own_last_layer(resnet18: Shapes) -> None:
    found = {(each.library, each.name): each for each in recognise(resnet18)}
    assert {("torchvision", "resnet18"), ("timm", "resnet18")} <= found.keys()
    assert {(each.kind, each.matched, each.of, each.classes) for each in found.values()} == {("equal", 100, 100, 7)}
    headless = {name: shape for name, shape in resnet18.items() if not name.startswith("fc.")}
    assert {(each.name, each.classes) for each in recognise(headless)} >= {("resnet18", None)}
    old = {name: shape for name, shape in resnet18.items() if not name.endswith("num_batches_tracked")}
    assert recognise(old) == recognise(resnet18)


def test_other_names_are_told_by_their_shapes(resnet18: Shapes) -> None:
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in resnet18))
    places = {name: (modules.index(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in resnet18}
    renamed = {f"unit_{place}.{leaf}": resnet18[name] for name, (place, leaf) in places.items()}
    found = [each for each in recognise(renamed) if (each.library, each.name) == ("torchvision", "resnet18")]
    assert [(each.kind, each.matched, each.of, each.classes) for each in found] == [("shapes", 100, 100, 7)]


def test_a_part_of_a_model_is_told_with_what_is_missing(resnet18: Shapes) -> None:
    without = {name: shape for name, shape in resnet18.items() if not name.startswith("layer4.")}
    best = recognise(without)[0]
    assert (best.kind, best.of) == ("part", 100)
    assert best.matched == sum(not name.endswith("tracked") for name in without) - 2  # the last layer's two aside
    assert 0.5 <= best.matched / best.of < 1


def test_two_tensors_that_changed_places_are_another_model(resnet18: Shapes) -> None:
    swapped = resnet18 | {"conv1.weight": resnet18["bn1.weight"], "bn1.weight": resnet18["conv1.weight"]}
    assert {each.kind for each in recognise(swapped)} == {"shapes"}
    assert not [each for each in recognise(resnet18 | {"conv1.weight": (64, 1, 7, 7)}) if each.kind != "part"]


def test_what_is_no_model_of_either_library_is_nothing() -> None:
    assert recognise({"a.weight": (3, 4), "b.weight": (5, 6, 7)}) == []


def test_a_row_leaves_the_last_layer_and_the_counters_out() -> None:
    row = row_of("timm", "x", {"a.weight": (3, 4), "a.num_batches_tracked": (), "fc.weight": (1013, 3)}, 1013)
    assert (row.tensors, row.heads, row.modules) == (1, ("fc",), frozenset({"a"}))
