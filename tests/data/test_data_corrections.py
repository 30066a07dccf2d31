"""data.exclude leaves images out, data.relabel corrects labels, and an entry that names no image is an error."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.config.choices import DataKind, Targets, TaskKind
from graft.config.faults import ConfigError, InputError
from graft.config.schema_images import DataConfig
from graft.data.corrections import FILE
from graft.data.datasets import load_table
from graft.data.solar_cells import list_solar_cells
from graft.data.table import PARTS, Table
from graft.finetune.state import check_settings
from graft.plan.plan import make_plan
from graft.plan.resumable import shared
from graft.system.tables import csv_text
from tests.plan.test_plan import config_of, resnet18


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Class folders of 6 cats, 6 dogs and one "caat"."""
    for number in range(6):
        picture(tmp_path / "pets" / "cat" / f"{number}.png", number)
        picture(tmp_path / "pets" / "dog" / f"{number}.png", 10 + number)
    picture(tmp_path / "pets" / "caat" / "0.png", 20)
    return tmp_path / "pets"


def file_of(path: Path, *rows: str) -> str:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


def table_of(root: Path, **options: object) -> Table:
    kind = DataKind.csv if root.suffix == ".csv" else DataKind.folder
    return load_table(DataConfig(kind=kind, root=str(root), val_fraction=0.3, **options))


def labels_of(table: Table) -> dict[str, str]:
    return {
        "/".join(Path(sample.path).parts[-2:]): table.labels.words(sample.label, table.classes)
        for part in PARTS
        for sample in table.part(part)
    }


def refused(root: Path, **options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        table_of(root, **options)
    return str(caught.value)


def test_images_are_left_out_and_labels_corrected(pets: Path, tmp_path: Path) -> None:
    before = labels_of(table_of(pets))
    exclude = file_of(tmp_path / "out.csv", "part,path", "train,cat/1.png", f"train,{pets}/dog/2.png", ",cat/1.png")
    relabel = file_of(tmp_path / "other.csv", "path,label", "caat/0.png,cat", "cat/0.png,dog", "dog/0.png,dog")
    table = table_of(pets, exclude=exclude, relabel=relabel)
    del before["cat/1.png"], before["dog/2.png"]
    assert labels_of(table) == {**before, "caat/0.png": "cat", "cat/0.png": "dog"}
    assert table.classes == ("cat", "dog")
    record = table.corrections.record()
    assert record == {
        "exclude": {
            "file": exclude, "images": 2, "unchanged": 0,
            "sha256": hashlib.sha256(Path(exclude).read_bytes()).hexdigest(),
        },
        "relabel": {
            "file": relabel, "images": 2, "unchanged": 1,
            "sha256": hashlib.sha256(Path(relabel).read_bytes()).hexdigest(),
        },
        "dropped_classes": ["caat"],
    }  # fmt: skip


def test_an_unreadable_image_and_a_stray_one_may_be_left_out(pets: Path, tmp_path: Path) -> None:
    (pets / "cat" / "broken.png").write_bytes(b"no image")
    picture(pets / "stray.png", 30)
    assert "2 that cannot" in refused(pets)
    exclude = file_of(tmp_path / "out.csv", "path", "cat/broken.png", "stray.png")
    assert "cat/broken.png" not in labels_of(table_of(pets, exclude=exclude))


def test_the_proposals_of_an_audit_are_the_labels(pets: Path, tmp_path: Path) -> None:
    rows = [("path", "part", "label", "proposal", "margin"), (str(pets / "cat/0.png"), "train", "cat", "dog", "0.3")]
    (tmp_path / "audit.csv").write_text(csv_text(rows))
    table = table_of(pets, relabel=str(tmp_path / "audit.csv"))
    assert labels_of(table)["cat/0.png"] == "dog"
    (tmp_path / "audit.csv").write_text(csv_text([*rows, (str(pets / "cat/1.png"), "train", "cat", "dog", "-0.2")]))
    said = refused(pets, relabel=str(tmp_path / "audit.csv"))
    assert "data.relabel: expected images with a margin above 0" in said
    assert "1 others: " in said
    assert "cat/1.png (margin -0.2)" in said


def test_a_name_that_a_spreadsheet_would_compute_is_found(pets: Path, tmp_path: Path) -> None:
    """Relative to a table's folder, a path may begin with a sign that audits quote."""
    picture(tmp_path / "=1.png", 40)
    rows = ["path,label", "=1.png,cat", *(f"pets/{name}/{k}.png,{name}" for name in ("cat", "dog") for k in range(6))]
    file_of(tmp_path / "t.csv", *rows)
    exclude = file_of(tmp_path / "out.csv", "path", "'=1.png")
    table = table_of(tmp_path / "t.csv", exclude=exclude)
    assert sum(len(table.part(part)) for part in PARTS) == 12


@pytest.mark.parametrize(
    ("key", "rows", "expected"),
    [
        ("exclude", ["path", "cat/7.png"], "data.exclude: expected paths of images, absolute or relative to"),
        ("exclude", ["path", "cat/7.png", "a", "cat/1.png"], "2 that are none: cat/7.png (line 2), a (line 3)"),
        ("relabel", ["path,label", "cat/7.png,dog"], "data.relabel: expected paths of images"),
        ("relabel", ["path,label", "cat/1.png,bird"], "labels of the data (caat, cat, dog), received line 2 with"),
        ("relabel", ["path,label", "cat/1.png,"], "line 2 with nothing"),
        ("relabel", ["path,proposal", "cat/1.png,"], "line 2 with nothing"),
        ("relabel", ["path,label", "cat/1.png,dog", "cat/1.png,cat"], "expected one label an image, received two for"),
        ("relabel", ["path", "cat/1.png"], "expected the columns label, received"),
        ("exclude", ["image", "cat/1.png"], "expected a CSV file with the column path"),
        ("exclude", [""], "none (the file is empty)"),
    ],
)  # fmt: skip
def test_what_cannot_be_applied_is_named(pets: Path, tmp_path: Path, key: str, rows: list[str], expected: str) -> None:
    assert expected in refused(pets, **{key: file_of(tmp_path / "c.csv", *rows)})


def test_an_image_is_not_both_left_out_and_relabelled(pets: Path, tmp_path: Path) -> None:
    exclude = file_of(tmp_path / "out.csv", "path", "cat/1.png")
    relabel = file_of(tmp_path / "other.csv", "path,label", "cat/1.png,dog")
    assert "expected no image that data.exclude leaves out" in refused(pets, exclude=exclude, relabel=relabel)


# --- every kind of data


def test_labels_of_a_table_are_corrected_before_they_are_judged(pets: Path, tmp_path: Path) -> None:
    """A label of the validation part that training lacks is refused, and so is the one label of a contradiction."""
    rows = [f"pets/{name}/{k}.png,{name},{'val' if k > 3 else 'train'}" for name in ("cat", "dog") for k in range(6)]
    root = Path(file_of(tmp_path / "t.csv", "path,label,split", *rows, "pets/caat/0.png,caat,val"))
    assert "every label of split val in split train too" in refused(root)
    relabel = file_of(tmp_path / "other.csv", "path,label", "pets/caat/0.png,cat")
    table = table_of(root, relabel=relabel)
    assert table.classes == ("cat", "dog")
    assert table.counts("val") == (3, 2)


def test_several_labels_and_numbers(pets: Path, tmp_path: Path) -> None:
    rows = [f"pets/{name}/{k}.png,{'a;b' if k % 2 else 'b'},{k}" for name in ("cat", "dog") for k in range(6)]
    root = Path(file_of(tmp_path / "t.csv", "path,label,age", *rows))
    relabel = file_of(tmp_path / "other.csv", "path,label,age", "pets/cat/0.png,a,7.5", "pets/cat/1.png,b; a,1")
    several = labels_of(table_of(root, task=TaskKind.multi_label, relabel=relabel))
    assert (several["cat/0.png"], several["cat/1.png"], several["cat/2.png"]) == ("a", "a and b", "b")
    numbers = table_of(root, task=TaskKind.regression, columns=["age"], relabel=relabel)
    assert labels_of(numbers)["cat/0.png"] == "age 7.5"
    assert numbers.corrections.relabel is not None
    assert (numbers.corrections.relabel.images, numbers.corrections.relabel.unchanged) == (1, 1)
    wrong = file_of(tmp_path / "other.csv", "path,age", "pets/cat/0.png,old")
    assert "line 2 with old" in refused(root, task=TaskKind.regression, columns=["age"], relabel=wrong)


def test_solar_cells_by_their_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Soft targets follow the label."""
    from graft.data import solar_cells

    folder = tmp_path / "elpv" / "data"
    for number in range(12):
        picture(folder / "images" / f"{number}.png", number)
    lines = [f"images/{number}.png {(number % 4) / 3} {'mono' if number > 5 else 'poly'}" for number in range(12)]
    file_of(folder / "labels.csv", *lines)
    monkeypatch.setattr(solar_cells, "_installed", lambda: tmp_path / "elpv")
    relabel = file_of(tmp_path / "other.csv", "path,label", "images/0.png,defective")
    exclude = file_of(tmp_path / "out.csv", "path", "images/1.png")
    data = DataConfig(kind=DataKind.solar_cells, targets=Targets.soft, relabel=relabel, exclude=exclude)
    assert len(list_solar_cells(data).entries) == 12
    table = load_table(data)
    samples = {Path(sample.path).name: sample for part in PARTS for sample in table.part(part)}
    assert (samples["0.png"].label, samples["0.png"].target) == (1, (0.0, 1.0))
    assert len(samples) == 11


# --- the config and the run


def test_files_that_are_not_there_are_faults_of_the_config(pets: Path, tmp_path: Path) -> None:
    headless = file_of(tmp_path / "c.csv", "image", "cat/1.png")
    with pytest.raises(ConfigError) as caught:
        config_of("data=folder", f"data.root={pets}", "data.exclude=away.csv", f"data.relabel={headless}")
    said = {fault.key: str(fault) for fault in caught.value.faults}
    assert "expected a CSV file that exists, received away.csv, which does not exist" in said["data.exclude"]
    assert "expected a CSV file with the column path" in said["data.relabel"]


def test_a_run_records_its_corrections(
    images: Path, tmp_path: Path, run_here: Callable[..., float | None], capsys: pytest.CaptureFixture[str]
) -> None:
    exclude = file_of(tmp_path / "out.csv", "path", "train/across/0.png")
    relabel = file_of(tmp_path / "other.csv", "path,label", "train/across/1.png,down")
    words = (f"data.root={images}", f"data.exclude={exclude}", f"data.relabel={relabel}")
    run_here(tmp_path / "run", *words)
    said = capsys.readouterr().out
    assert f"corrected 1 image left out by {exclude} (SHA-256 " in said
    assert f"corrected 1 image relabelled by {relabel} (SHA-256 " in said
    plan, model = (json.loads((tmp_path / "run" / name).read_text()) for name in ("plan.json", "model/model.json"))
    assert plan["data"]["corrections"] == model["data"]["corrections"]
    assert plan["data"]["corrections"]["exclude"]["images"] == 1
    assert plan["data"]["parts"]["train"] == {"across": 10, "down": 13}
    with open(tmp_path / "run" / FILE, newline="") as lines:
        rows = [tuple(row.values()) for row in csv.DictReader(lines)]
    assert rows == [
        (str(images / "train/across/0.png"), "across", ""), (str(images / "train/across/1.png"), "across", "down"),
    ]  # fmt: skip
    for page in ("model/README.md", "report.html"):
        text = (tmp_path / "run" / page).read_text().replace("\\_", "_")
        assert f"1 image left out by {exclude}" in text, page


def test_a_run_does_not_resume_with_a_changed_file(pets: Path, tmp_path: Path) -> None:
    exclude = file_of(tmp_path / "out.csv", "path,why", "caat/0.png,x")

    def settings() -> dict[str, object]:
        config = config_of("data=folder", f"data.root={pets}", f"data.exclude={exclude}", "cache=none")
        return shared(make_plan(config, load_table(config.data), resnet18))

    before = settings()
    check_settings(before, settings())
    file_of(tmp_path / "out.csv", "path,why", "caat/0.png,y")
    with pytest.raises(InputError, match=r"data\.exclude: .*out\.csv \(SHA-256 \w{64}\) in the checkpoint"):
        check_settings(before, settings())
