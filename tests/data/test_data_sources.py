"""Where samples come from: the solar cells, class folders, tables; and every way in which they can be wrong."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.config.choices import DataKind, OnError, Targets
from graft.config.faults import ConfigError, InputError
from graft.config.schema_images import DataConfig
from graft.data import solar_cells
from graft.data.datasets import load_table
from graft.data.split import carve
from tests.cells import cells


def picture(path: Path, value: int = 100, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def class_folders(root: Path, parts: dict[str, dict[str, int]]) -> Path:
    for part, classes in parts.items():
        for name, count in classes.items():
            for number in range(count):
                picture(root / part / name / f"{number}.png", zlib.crc32(f"{part} {name} {number}".encode()))
    return root


def folder(root: Path, **options: object) -> DataConfig:
    return DataConfig(kind=DataKind.folder, root=str(root), **options)


def table(path: Path, text: str, **options: object) -> DataConfig:
    path.write_text(text, encoding="utf-8")
    return DataConfig(kind=DataKind.csv, root=str(path), **options)


def refused(data: DataConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        load_table(data)
    return str(caught.value)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "set", {"train": {"cat": 4, "dog": 4}, "val": {"cat": 2, "dog": 2}})


# --- solar cells


def test_solar_cells_have_the_published_counts():
    found = cells()
    assert found.classes == ("functional", "defective")
    assert (len(found.train), len(found.val), len(found.test)) == (1673, 295, 656)
    assert found.counts("test") == (451, 205)
    assert found.skipped == ()
    assert {sample.target for sample in found.train} == {None}


def test_solar_cells_parts_hold_the_same_share_of_every_probability_and_type():
    data = DataConfig(kind=DataKind.solar_cells)
    strata = {entry.path: entry.stratum for entry in solar_cells.list_solar_cells(data).entries}
    everything = Counter(strata.values())
    assert everything[("1.0", "mono")] == 313
    assert len(everything) == 8
    found = cells()
    for part, share in (("test", 0.25), ("val", 0.75 * 0.15), ("train", 0.75 * 0.85)):
        counts = Counter(strata[sample.path] for sample in found.part(part))
        for stratum, total in everything.items():
            assert abs(counts[stratum] - total * share) <= 1, (part, stratum)


def test_solar_cells_test_part_depends_on_no_option():
    usual = cells()
    other = cells(val_fraction=0.4, split_seed=7, targets=Targets.soft)
    assert [sample.path for sample in usual.test] == [sample.path for sample in other.test]
    assert {sample.path for sample in usual.val} != {sample.path for sample in other.val}
    assert usual.division() != other.division()
    assert usual.division() == load_table(DataConfig(kind=DataKind.solar_cells)).division()
    names = " ".join(Path(sample.path).name for sample in usual.test)
    assert (
        hashlib.sha256(names.encode()).hexdigest()[:16] == "49c24d4669349ec6"
    )  # published figures are of these 656 cells


def test_soft_targets_keep_the_hard_label_beside_them():
    found = cells(targets=Targets.soft)
    targets = Counter((sample.target, sample.label) for part in (found.train, found.val, found.test) for sample in part)
    third, two_thirds = 0.3333333333333333, 0.6666666666666666
    assert targets == {
        ((1.0, 0.0), 0): 1508,
        ((1 - third, third), 0): 295,
        ((1 - two_thirds, two_thirds), 1): 106,
        ((0.0, 1.0), 1): 715,
    }


def test_without_the_package_the_answer_names_the_extra(monkeypatch):
    monkeypatch.setattr(solar_cells, "PACKAGE", "elpv_dataset_that_is_not_installed")
    with pytest.raises(InputError, match=r"pip install 'graft-transfer\[demo\]'"):
        load_table(DataConfig(kind=DataKind.solar_cells))


def test_labels_are_read_without_importing_the_package_or_torch():
    code = (
        "import sys; from graft.data.datasets import load_table; from graft.config.schema_images import DataConfig;"
        "from graft.config.choices import DataKind; load_table(DataConfig(kind=DataKind.solar_cells));"
        "assert not {'torch', 'elpv_dataset'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# --- carving


def test_carving_takes_the_share_of_every_stratum_and_depends_on_names_alone():
    names = [f"{number}.png" for number in range(100)]
    strata = ["rare" if number % 10 == 0 else "common" for number in range(100)]
    carved = carve(names, strata, 0.2, seed=0)
    assert Counter(strata[position] for position in carved) == {"common": 18, "rare": 2}
    chosen = {names[position] for position in carved}
    turned = carve(names[::-1], strata[::-1], 0.2, seed=0)
    assert {names[::-1][position] for position in turned} == chosen
    assert {names[position] for position in carve(names, strata, 0.2, seed=1)} != chosen


def test_carving_rounds_the_total_to_the_nearest():
    names = [str(number) for number in range(10)]
    assert len(carve(names, [number % 3 for number in range(10)], 0.25, seed=0)) == 3


# --- folders


def test_train_and_val_folders(whole: Path):
    (whole / "train" / "cat" / ".hidden.png").write_bytes(b"")
    (whole / ".DS_Store").write_bytes(b"")
    picture(whole / "train" / "cat" / "deeper" / "still" / "x.png")
    found = load_table(folder(whole))
    assert found.classes == ("cat", "dog")
    assert found.counts("train") == (5, 4)
    assert found.counts("val") == (2, 2)
    assert found.test == ()
    first = found.train[0]
    assert (first.path, first.label) == (str(whole / "train" / "cat" / "0.png"), 0)
    assert first.content == hashlib.sha256(Path(first.path).read_bytes()).hexdigest()[:32]


def test_one_folder_is_split_alike_wherever_it_lies(tmp_path: Path):
    here = class_folders(tmp_path / "a", {"": {"cat": 20, "dog": 10}})
    there = class_folders(tmp_path / "b" / "c", {"": {"cat": 20, "dog": 10}})
    first, second = (load_table(folder(root, val_fraction=0.25, test_fraction=0.2)) for root in (here, there))
    assert (first.counts("train"), first.counts("val"), first.counts("test")) == ((12, 6), (4, 2), (4, 2))
    for part in ("train", "val", "test"):
        names = [os.path.relpath(sample.path, here) for sample in first.part(part)]
        assert names == [os.path.relpath(sample.path, there) for sample in second.part(part)]


def test_a_class_may_be_called_train(tmp_path: Path):
    root = class_folders(tmp_path / "vehicles", {"": {"bus": 4, "train": 4}})
    assert load_table(folder(root, val_fraction=0.25)).classes == ("bus", "train")


def test_renamed_parts(tmp_path: Path):
    root = class_folders(tmp_path, {"training": {"a": 2, "b": 2}, "holdout": {"a": 1, "b": 1}})
    found = load_table(folder(root, train="training", val="holdout"))
    assert (len(found.train), len(found.val)) == (4, 2)


def test_a_missing_root_names_its_nearest_existing_parent(whole: Path):
    said = refused(folder(whole.parent / "sett" / "deeper"))
    assert f"nearest existing parent is {whole.parent}" in said
    assert f"try data.root={whole}" in said


def test_no_root(tmp_path: Path):
    assert "try data.root=FOLDER" in refused(DataConfig(kind=DataKind.folder))
    assert "try data.root=FILE.csv" in refused(DataConfig(kind=DataKind.csv))


def test_an_empty_folder(tmp_path: Path):
    assert f"received {tmp_path}, which is empty" in refused(folder(tmp_path))


def test_a_folder_of_loose_images(tmp_path: Path):
    picture(tmp_path / "1.png")
    assert "expected class folders" in refused(folder(tmp_path))


def test_a_file_for_a_root(tmp_path: Path):
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\n")
    assert f"try data=csv data.root={labels}" in refused(folder(labels))


def test_one_class(tmp_path: Path):
    root = class_folders(tmp_path, {"train": {"cat": 2}, "val": {"cat": 2}})
    assert "expected at least two classes, received one: cat" in refused(folder(root))


def test_a_class_folder_with_no_images(whole: Path):
    (whole / "train" / "emu").mkdir()
    (whole / "val" / "emu").mkdir()
    said = refused(folder(whole))
    assert f"received {whole / 'train' / 'emu'} with none" in said
    assert f"received {whole / 'val' / 'emu'} with none" in said


def test_a_class_mismatch_lists_both_sides(whole: Path):
    (whole / "val" / "dog").rename(whole / "val" / "dogs")
    said = refused(folder(whole))
    assert "dog only in train, dogs only in val" in said
    assert "renaming dogs for dog" in said


def test_a_validation_folder_under_another_name_is_not_overlooked(whole: Path):
    (whole / "val").rename(whole / "validation")
    assert "try data.val=validation" in refused(folder(whole))


def test_validation_without_training(whole: Path):
    (whole / "train").rename(whole / "training")
    assert "expected a folder train beside val" in refused(folder(whole))


def test_an_image_in_two_parts_is_a_leak(whole: Path):
    os.symlink(whole / "train" / "cat" / "0.png", whole / "val" / "cat" / "copy.png")
    said = refused(folder(whole))
    assert "expected each image once, in one part" in said
    assert f"{whole / 'val' / 'cat' / 'copy.png'} (val, cat)" in said


def test_an_image_outside_every_class_folder(whole: Path):
    loose = picture(whole / "train" / "loose.png")
    assert f"{loose} (lies in no class folder)" in refused(folder(whole))
    assert [entry["path"] for entry in load_table(folder(whole, on_error=OnError.skip)).skipped] == [str(loose)]


def test_every_fault_is_told_at_once(whole: Path):
    (whole / "train" / "emu").mkdir()
    (whole / "val" / "cat" / "0.png").write_bytes(b"")
    said = refused(folder(whole, targets=Targets.soft, val_fraction=1.5))
    for part in ("emu with none", "emu only in train", "0.png (0 bytes)", "data.targets", "data.val_fraction"):
        assert part in said


def test_a_test_fraction_beside_a_test_part_has_no_effect_and_is_refused(whole: Path):
    class_folders(whole, {"test": {"cat": 1, "dog": 1}})
    assert "try data.test_fraction=0" in refused(folder(whole, test_fraction=0.1))


def test_too_few_images_to_validate_on(tmp_path: Path):
    root = class_folders(tmp_path, {"": {"cat": 1, "dog": 1}})
    assert "data.val_fraction: expected a share that gives at least one image" in refused(
        folder(root, val_fraction=0.1)
    )
    assert "expected an image of every class to train on, received none of" in refused(folder(root, val_fraction=0.5))


# --- unreadable images


def damaged(root: Path) -> dict[str, str]:
    """Ways in which an image can be none: file to what must be said of it."""
    place = root / "train" / "cat"
    jpeg = picture(place / "cut.jpg").read_bytes()
    (place / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    whole_png = picture(place / "flipped.png").read_bytes()
    (place / "cut.png").write_bytes(whole_png[: len(whole_png) // 2])
    (place / "flipped.png").write_bytes(whole_png[:200] + bytes([whole_png[200] ^ 1]) + whole_png[201:])
    (place / "empty.png").write_bytes(b"")
    (place / "text.jpg").write_text("not an image")
    (place / "notes.txt").write_text("nor this")
    (place / "nowhere.png").symlink_to(root / "gone.png")
    bitmap = picture(place / "cut.bmp").read_bytes()
    (place / "cut.bmp").write_bytes(bitmap[: len(bitmap) // 2])
    np.save(place / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    return {
        "cut.jpg": "truncated", "cut.png": "", "flipped.png": "", "empty.png": "0 bytes", "text.jpg": "known kind",
        "notes.txt": "known kind", "nowhere.png": "no such file", "cut.bmp": "truncated", "pickled.npy": "",
    }  # fmt: skip


def test_unreadable_images_stop_the_run_by_name(whole: Path):
    expected = damaged(whole)
    said = refused(folder(whole))
    assert f"received {len(expected)} that cannot" in said
    for name, reason in expected.items():
        assert f"{whole / 'train' / 'cat' / name} (" in said
        assert reason in said
    assert "try data.on_error=skip" in said


def test_unreadable_images_are_left_out_counted_and_listed_on_request(whole: Path):
    expected = damaged(whole)
    found = load_table(folder(whole, on_error=OnError.skip))
    assert {Path(entry["path"]).name for entry in found.skipped} == set(expected)
    assert all(entry["reason"] for entry in found.skipped)
    assert found.counts("train") == (4, 4)
    assert len(found.summary()["skipped"]) == len(expected)


def test_a_part_whose_every_image_is_unreadable_is_not_drawn_from_train(whole: Path):
    for path in (whole / "val").rglob("*.png"):
        path.write_bytes(b"")
    assert "expected images of val that can be read, received none" in refused(folder(whole, on_error=OnError.skip))


@pytest.mark.parametrize(("files", "received"), [(0, "an empty folder"), (2, "2 files and no folder")])
@pytest.mark.parametrize("part", ["val", "test"])
def test_a_parts_folder_without_a_class_is_not_taken_for_no_part(tmp_path: Path, part: str, files: int, received: str):
    root = class_folders(tmp_path / "set", {"train": {"cat": 8, "dog": 8}})
    (root / part).mkdir()
    for number in range(files):
        picture(root / part / f"{number}.png")
    told = refused(folder(root))
    assert f"data.root: expected class folders in {root / part}, received {received}; try filling it, or" in told
    for file in (root / part).iterdir():
        file.unlink()
    (root / part).rmdir()
    assert len(load_table(folder(root)).val) > 0


def test_a_class_whose_every_image_is_unreadable_cannot_be_learnt(whole: Path):
    for path in (whole / "train" / "dog").iterdir():
        path.write_bytes(b"")
    assert "received none of dog" in refused(folder(whole, on_error=OnError.skip))


def test_images_of_another_number_of_channels(whole: Path):
    said = refused(folder(whole, channels=4))
    assert "expected 4 channels (data.channels), received 3" in said
    assert "received 12 that cannot" in said


# --- tables


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(8):
        picture(tmp_path / "images" / f"{number}.png", number)
    return tmp_path


def test_a_table_with_fixed_parts(pictures: Path):
    parts = ("train",) * 4 + ("val",) * 2 + ("test",) * 2
    lines = "".join(f"images/{number}.png, {10 - number % 2},{part}\n" for number, part in enumerate(parts))
    found = load_table(table(pictures / "t.csv", "\ufeffpath,label,split\n" + lines))
    assert found.classes == ("9", "10")  # as numbers
    assert (found.counts("train"), found.counts("val"), found.counts("test")) == ((2, 2), (1, 1), (1, 1))
    assert found.train[0].path == str(pictures / "images" / "0.png")
    assert found.train[0].label == 1


def test_a_table_to_split(pictures: Path):
    lines = "".join(f"{pictures}/images/{number}.png,{'ab'[number % 2]},ignored\n" for number in range(8))
    found = load_table(table(pictures / "t.csv", "path,label,comment\n" + lines, val_fraction=0.25))
    assert (found.counts("train"), found.counts("val")) == ((3, 3), (1, 1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "received the columns none (the file is empty)"),
        ("path;label\nimages/0.png;a\n", "try commas in place of ';'"),
        ("file,class\nimages/0.png,a\n", "expected the columns path, label and perhaps split"),
        ("path,label\n", "received a header and no line"),
        ("path,label\nimages/0.png,\n,a\n", "line 2 without label, line 3 without path"),
        ("path,label,split\nimages/0.png,a,training\n", "line 2 with split training (perhaps train)"),
        ("path,label,split\nimages/0.png,a,train\nimages/1.png,b,train\nimages/2.png,c,val\n", "received c"),
        ("path,label\nimages/0.png,a\nimages/gone.png,b\n", "gone.png (no such file)"),
        ("path,label\nimages/0.png,a\nimages,b\n", "images (not a file)"),
        ("path,label\nimages/0.png,a\nimages/0.png,b\n", "expected each image once, in one part"),
        ("path,label\nimages/0.png,a\nimages/1.png,a\n", "at least two classes, received one: a"),
    ],
)
def test_tables_that_are_wrong(pictures: Path, text: str, said: str):
    assert said in refused(table(pictures / "t.csv", text))


def test_a_table_that_is_not_text(pictures: Path):
    (pictures / "t.csv").write_bytes(b"path,label\n\xff\xfe\x00,a\n")
    data = DataConfig(kind=DataKind.csv, root=str(pictures / "t.csv"))
    assert "expected a CSV file in UTF-8" in refused(data)


def test_a_folder_for_a_table(pictures: Path):
    (pictures / "labels.csv").write_text("path,label\n")
    data = DataConfig(kind=DataKind.csv, root=str(pictures))
    assert f"try data.root={pictures / 'labels.csv'}" in refused(data)
    assert "nearest existing parent" in refused(DataConfig(kind=DataKind.csv, root=str(pictures / "lables.csv")))
