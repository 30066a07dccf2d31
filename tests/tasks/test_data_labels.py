"""Labels of tables and solar cells in each task: what is read, how it is divided, what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graft.config.choices import DataKind, Targets, TaskKind
from graft.config.faults import ConfigError
from graft.config.schema_images import AugmentConfig, DataConfig
from graft.data.datamodule import DataModule
from graft.data.datasets import load_table
from graft.models.preprocess import Preprocess
from tests.cells import cells

SEVERAL, NUMBERS = TaskKind.multi_label, TaskKind.regression
RNG = np.random.default_rng(0)


@pytest.fixture
def table(tmp_path: Path):
    """table("path,label", ["ant;bee", …]) writes a row, and an image, for each."""

    def write(header: str, cells: list[str], **options: object) -> DataConfig:
        lines = [header]
        for number, cell in enumerate(cells):
            name = f"{number}.png"
            Image.fromarray(RNG.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / name)
            lines.append(f"{name},{cell}")
        (tmp_path / "table.csv").write_text("\n".join(lines), encoding="utf-8")
        return DataConfig(kind=DataKind.csv, root=str(tmp_path / "table.csv"), **{"val_fraction": 0.25, **options})

    return write


def refused(data: DataConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        load_table(data)
    return str(caught.value)


def test_names_in_a_cell_become_labels_and_an_empty_cell_has_none(table):
    found = load_table(table("path,label", ["bee; ant", "", "bee", "ant;"] * 4, task=SEVERAL))
    assert found.classes == ("ant", "bee")
    kinds = Counter(sample.label for part in (found.train, found.val) for sample in part)
    assert kinds == {(1.0, 1.0): 4, (0.0, 0.0): 4, (0.0, 1.0): 4, (1.0, 0.0): 4}
    assert (len(found.train), len(found.val)) == (12, 4)
    told = found.summary()
    assert told["images"] == {"train": 12, "val": 4, "test": 0}
    assert told["parts"]["train"]["ant"] == sum(label[0] for label in found.labels_of("train"))


def test_another_separator(table):
    assert load_table(table("path,label", ["a|b", "b", "a"] * 4, task=SEVERAL, separator="|")).classes == ("a", "b")
    said = refused(table("path,label", ["a|b", "b", "a"] * 4, task=SEVERAL))
    assert "data.separator: expected what stands between two names, received ';', which is in no cell" in said
    assert """try 'data.separator="|"'""" in said


def test_labels_that_cannot_be_learnt_or_judged_are_refused(table):
    split = "path,label,split"
    unseen = refused(table(split, ["a,train", "b,train", "a;c,val", "b,val"], task=SEVERAL))
    assert "expected every label of split val in split train too (a, b), received c" in unseen
    same = refused(table(split, ["a,train", "b,train", "a,val", "a,val"], task=SEVERAL))
    assert "expected labels that differ in val, received a for each image" in same
    assert "expected a label for some image" in refused(table("path,label", [""] * 8, task=SEVERAL))


def test_numbers_of_one_column_or_several(table):
    cells = [f"{k},{10 - k}" for k in range(8)]
    found = load_table(table("path,age,size", cells, task=NUMBERS, columns=["size", "age"]))
    assert found.classes == ("size", "age")
    assert {sample.label for sample in (*found.train, *found.val)} == {(10.0 - k, float(k)) for k in range(8)}
    values = found.summary()["values"]["train"]["age"]
    ages = [sample.label[1] for sample in found.train]
    assert values == pytest.approx(
        {"mean": np.mean(ages), "std": np.std(ages), "lowest": min(ages), "highest": max(ages)}
    )
    assert "parts" not in found.summary()
    assert load_table(table("path,label", ["1.5", "-2", "1e3", "7"] * 2, task=NUMBERS)).classes == ("label",)


def test_what_is_no_number_is_refused(table):
    said = refused(table("path,label", ["1", "two", "3", "inf"], task=NUMBERS))
    assert (
        "finite numbers in label with data.task=regression, received line 3 with label two, line 5 with label inf"
        in said
    )
    assert "expected a value for path, label in every line" in refused(table("path,label", ["1", ""], task=NUMBERS))
    columns = refused(table("path,age", ["1", "2"], task=NUMBERS))
    assert "try data.columns=[NAME,…] with names of path, age" in columns
    same = refused(table("path,label", ["3"] * 8, task=NUMBERS))
    assert "expected values of label that differ in train, received 3 for each image" in same


def test_the_solar_cells_probability_keeps_their_parts():
    found, usual = cells(task=NUMBERS), cells()
    assert [sample.path for sample in found.val] == [sample.path for sample in usual.val]
    assert [sample.path for sample in found.test] == [sample.path for sample in usual.test]
    soft = cells(targets=Targets.soft)
    assert [sample.label for sample in found.train] == [sample.target[1:] for sample in soft.train]
    assert found.classes == ("probability of a defect",)


@pytest.mark.parametrize(("task", "cells"), [(SEVERAL, ["a;b", "b", "a", ""]), (NUMBERS, ["1", "2", "3", "4"])])
def test_batches_hold_a_value_for_each_and_mixup_blends_them(table, task, cells):
    data = table("path,label", cells * 4, task=task, image_size=16, batch_size=4, num_workers=0)
    preprocess = Preprocess(image_size=16, crop_fraction=1.0, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    found = load_table(data)
    plain, mixed = (
        next(iter(DataModule(found, data, AugmentConfig(name="x", mixup=share), preprocess, seed=0).train_dataloader()))
        for share in (0.0, 1.0)
    )
    labels = torch.tensor(found.labels_of("train"))[plain["index"]]
    for batch in (plain, mixed):
        assert batch["label"].dtype is torch.float32
        assert batch["label"].equal(labels)
    assert plain["target"].equal(labels)
    partner = labels.roll(-1, 0)
    shares = (mixed["target"] - partner)[labels != partner] / (labels - partner)[labels != partner]
    torch.testing.assert_close(shares, shares[:1].expand_as(shares))
    assert 0 < float(shares[0]) < 1
