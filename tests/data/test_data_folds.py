"""Folds: every image in one, by content, groups whole, the same wherever the images lie."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.config.choices import DataKind
from graft.config.schema import DataConfig
from graft.data.datasets import load_table
from graft.data.split import divide
from graft.data.table import Table


@pytest.fixture(scope="module")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of two classes, 2 of each patient, and 10 of a test part."""
    folder = tmp_path_factory.mktemp("folds")
    generator = np.random.default_rng(0)
    rows = ["path,label,split,patient"]
    for k in range(50):
        Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{k}.png")
        rows.append(f"{k}.png,{'ab'[k // 2 % 2]},{('train', 'val')[k % 2] if k < 40 else 'test'},p{k // 2}")
    (folder / "table.csv").write_text("\n".join(rows))
    return folder / "table.csv"


def table_of(file: Path, **settings: object) -> Table:
    return load_table(DataConfig(kind=DataKind.csv, root=str(file), folds=5, **settings))  # pyright: ignore[reportArgumentType]


def folds_of(table: Table) -> dict[str, int | None]:
    return {Path(sample.path).name: sample.fold for sample in (*table.train, *table.val)}


def test_every_image_is_in_one_of_equal_folds_and_the_test_part_stays_apart(table_file: Path) -> None:
    table = table_of(table_file)
    assert [len(table.train), len(table.val), len(table.test)] == [32, 8, 10]
    assert all(sample.fold == 0 for sample in table.val)
    assert all(sample.fold is None for sample in table.test)
    assert Counter(folds_of(table).values()) == dict.fromkeys(range(5), 8)
    classes = {fold: Counter[object]() for fold in range(5)}
    for sample in (*table.train, *table.val):
        assert sample.fold is not None
        classes[sample.fold][sample.label] += 1
    assert all(counts == {0: 4, 1: 4} for counts in classes.values())


@pytest.mark.parametrize("fold", range(5))
def test_a_fold_is_the_validation_part_of_its_run(table_file: Path, fold: int) -> None:
    table = table_of(table_file, fold=fold)
    assert {sample.fold for sample in table.val} == {fold}
    assert folds_of(table) == folds_of(table_of(table_file))


def test_a_patient_is_in_one_fold(table_file: Path) -> None:
    rows = table_file.read_text().replace(",val,", ",train,").splitlines()
    (table_file.parent / "grouped.csv").write_text("\n".join(rows))
    table = table_of(table_file.parent / "grouped.csv", group="patient")
    folds = folds_of(table)
    assert all(folds[f"{k}.png"] == folds[f"{k + 1}.png"] for k in range(0, 40, 2))
    assert set(Counter(folds.values()).values()) == {8}


def test_membership_goes_by_content(table_file: Path, tmp_path: Path) -> None:
    """Other names in another folder, in another order: the same pictures are in the same folds."""
    rows = ["path,label,split"]
    names: dict[str, str] = {}
    for line in table_file.read_text().splitlines()[:0:-1]:
        path, label, split, _ = line.split(",")
        names[f"x{path}"] = path
        shutil.copy(table_file.parent / path, tmp_path / f"x{path}")
        rows.append(f"x{path},{label},{'test' if split == 'test' else 'train'}")
    (tmp_path / "other.csv").write_text("\n".join(rows))
    other = {names[name]: fold for name, fold in folds_of(table_of(tmp_path / "other.csv")).items()}
    assert other == folds_of(table_of(table_file))


def test_another_seed_gives_other_folds(table_file: Path) -> None:
    assert folds_of(table_of(table_file, split_seed=1)) != folds_of(table_of(table_file))


def test_what_cannot_be_equal_differs_by_one() -> None:
    names = [str(k) for k in range(23)]
    folds = divide(names, ["a"] * 23, 5, 0, names)
    assert sorted(Counter(folds).values()) == [4, 4, 5, 5, 5]
