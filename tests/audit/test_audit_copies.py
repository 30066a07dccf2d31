"""An image in two parts or under two labels is refused before anything starts, unless it is accepted by name."""

from __future__ import annotations

import csv
import json
import time
import tracemalloc
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from graft.audit.copies import FILE, check_copies, find_copies
from graft.config.choices import DataKind, Targets, TaskKind
from graft.config.faults import InputError
from graft.config.schema_images import DataConfig
from graft.data import contents, pictures
from graft.data.datasets import load_table
from graft.data.table import Sample, Table
from tests.cells import cells

PARTS = ("train", "val", "test")
Run = Callable[..., float | None]


def picture(path: Path, seed: int, mode: str = "RGB", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def class_folders(root: Path, parts: tuple[str, ...] = PARTS) -> Path:
    for place, part in enumerate(parts):
        for label, name in enumerate(("cat", "dog")):
            for number in range(4):
                picture(root / part / name / f"{number}.png", 100 * place + 10 * label + number)
    return root


def folder(root: Path, **options: object) -> DataConfig:
    return DataConfig(kind=DataKind.folder, root=str(root), **options)


def bytes_again(image: Path, copy: Path) -> None:
    copy.with_suffix(".png").write_bytes(image.read_bytes())


def other_compression(image: Path, copy: Path) -> None:
    Image.open(image).save(copy.with_suffix(".png"), compress_level=0)


def other_metadata(image: Path, copy: Path) -> None:
    notes = PngInfo()
    notes.add_text("camera", "another")
    Image.open(image).save(copy.with_suffix(".png"), pnginfo=notes)


def bitmap(image: Path, copy: Path) -> None:
    Image.open(image).save(copy.with_suffix(".bmp"))


def lossless_webp(image: Path, copy: Path) -> None:
    Image.open(image).save(copy.with_suffix(".webp"), lossless=True)


def numpy_file(image: Path, copy: Path) -> None:
    np.save(copy.with_suffix(".npy"), np.asarray(Image.open(image)))


def turned_by_exif(image: Path, copy: Path) -> None:
    """Its header has the sides exchanged, and what is shown is the same."""
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.open(image).transpose(Image.Transpose.ROTATE_90).save(copy.with_suffix(".png"), exif=exif)


WAYS = (bytes_again, other_compression, other_metadata, bitmap, lossless_webp, numpy_file, turned_by_exif)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_copies_across_each_pair_of_parts_are_found_and_no_others(tmp_path: Path, way: Callable[..., None]) -> None:
    root = class_folders(tmp_path / "set")
    planted: set[frozenset[str]] = set()
    for number, (one, other) in enumerate(combinations(PARTS, 2)):
        for name in ("cat", "dog"):
            image, copy = root / one / name / f"{number}.png", root / other / name / f"copy{number}"
            way(image, copy)
            planted.add(frozenset([f"{one}/{name}/{number}", f"{other}/{name}/copy{number}"]))
    copies = find_copies(load_table(folder(root)))
    found = {
        frozenset(str(Path(copy.sample.path).relative_to(root).with_suffix("")) for copy in members)
        for members in copies.pictures
    }
    assert found == planted
    assert (copies.duplicates, copies.contradictions, copies.within) == (6, 0, 0)


def test_a_grey_picture_and_its_copy_in_colour_are_one(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    grey = picture(root / "train" / "cat" / "grey.png", 77, mode="L")
    Image.open(grey).convert("RGB").save(root / "val" / "cat" / "colour.png")
    assert find_copies(load_table(folder(root))).duplicates == 1


def test_one_grey_level_makes_another_picture(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    pixels = np.asarray(Image.open(root / "train" / "cat" / "0.png")).copy()
    pixels[3, 4, 1] ^= 1
    Image.fromarray(pixels).save(root / "val" / "cat" / "near.png")
    assert find_copies(load_table(folder(root))).pictures == ()


def test_pictures_of_the_same_bytes_and_other_sides_differ(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    for part, shape in (("train", (4, 9)), ("val", (9, 4))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(root / part / "cat" / "blank.png")
    assert find_copies(load_table(folder(root))).pictures == ()


def test_it_is_refused_in_one_paragraph_that_says_what_to_type(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    for number in range(4):
        bytes_again(root / "train" / "cat" / f"{number}.png", root / "val" / "cat" / f"copy{number}")
    bytes_again(root / "test" / "cat" / "0.png", root / "test" / "dog" / "other")
    table = load_table(folder(root))
    with pytest.raises(InputError) as caught:
        check_copies(table, (), tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    assert "4 pairs of the same image in two parts" in text
    assert f"{root}/train/cat/0.png (train, cat) = {root}/val/cat/copy0.png (val, cat); " in text
    assert text.count(" = ") == 3 + 1
    assert "; …)" in text
    assert "1 pair of the same image under two labels" in text
    assert f"all are listed in {tmp_path / FILE}" in text
    assert "data.accept=[contradictions,duplicates]" in text
    with open(tmp_path / FILE, newline="") as file:
        rows = list(csv.DictReader(file))
    pairs = {
        frozenset([Path(one["path"]).relative_to(root), Path(other["path"]).relative_to(root)])
        for one, other in combinations(rows, 2)
        if one["picture"] == other["picture"]
    }
    assert pairs == {
        *(frozenset([Path(f"train/cat/{n}.png"), Path(f"val/cat/copy{n}.png")]) for n in range(4)),
        frozenset([Path("test/cat/0.png"), Path("test/dog/other.png")]),
    }
    assert {row["part"] for row in rows} == set(PARTS)
    assert {row["label"] for row in rows} == {"cat", "dog"}


def test_each_is_accepted_by_its_own_name(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    bytes_again(root / "train" / "cat" / "0.png", root / "val" / "dog" / "other")
    table = load_table(folder(root))
    with pytest.raises(InputError, match=r"1 pair of the same image under two labels.*\[contradictions,duplicates\]"):
        check_copies(table, ["duplicates"])
    with pytest.raises(InputError, match=r"1 pair of the same image in two parts"):
        check_copies(table, ["contradictions"])
    check_copies(table, ["duplicates", "contradictions"])


def test_a_list_of_an_earlier_command_goes_where_there_are_none(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("picture,part,label,path\n")
    check_copies(load_table(folder(class_folders(tmp_path / "set"))), (), tmp_path)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    ("options", "header", "same", "other"),
    [
        ({"task": TaskKind.multi_label}, "label", "bee;ant", "bee"),
        ({"task": TaskKind.regression, "columns": ["age"]}, "age", "3", "3.5"),
        ({"task": TaskKind.single_label}, "label", "ant", "bee"),
    ],
)
def test_contradictions_of_each_task_in_a_table(
    tmp_path: Path, options: dict[str, object], header: str, same: str, other: str
) -> None:
    rows = [f"path,{header},split"]
    for number, part in enumerate(["train"] * 4 + ["val"] * 2):
        picture(tmp_path / f"{number}.png", number)
        rows.append(f"{number}.png,{(same, other)[number % 2]},{part}")
    bitmap(tmp_path / "0.png", tmp_path / "agrees")
    bitmap(tmp_path / "2.png", tmp_path / "contradicts")
    rows += [f"agrees.bmp,{same},train", f"contradicts.bmp,{other},train"]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    table = load_table(DataConfig(kind=DataKind.csv, root=str(tmp_path / "t.csv"), **options))
    copies = find_copies(table)
    assert (copies.duplicates, copies.contradictions, copies.within) == (0, 1, 2)
    with pytest.raises(InputError, match=r"2\.png .*= .*contradicts\.bmp"):
        check_copies(table, ())


def test_soft_targets_that_differ_contradict_too() -> None:
    samples = [Sample(f"{k}.png", 0, (1 - k / 3, k / 3), picture="one") for k in range(2)]
    table = Table(classes=("a", "b"), train=tuple(samples), val=(), test=())
    assert find_copies(table).contradictions == 1


@pytest.mark.parametrize("targets", list(Targets))
def test_the_solar_cells_hold_no_copies(targets: Targets) -> None:
    assert find_copies(cells(targets=targets)).pictures == ()


def test_many_copies_of_one_picture_take_neither_time_nor_memory_of_their_pairs() -> None:
    samples = [Sample(f"/{k}.png", k % 2, picture="blank") for k in range(20_000)]
    table = Table(classes=("a", "b"), train=tuple(samples[:10_000]), val=tuple(samples[10_000:]), test=())
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(InputError, match=r"100,000,000 pairs of the same image in two parts"):
        check_copies(table, ())
    assert time.process_time() - began < 5
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


# --- as a run


@pytest.fixture
def leaking(images: Path) -> Path:
    bytes_again(images / "train" / "down" / "0.png", images / "val" / "down" / "leak")
    return images


def test_a_run_is_refused_before_it_writes_anything_else(leaking: Path, tmp_path: Path, run_here: Run) -> None:
    with pytest.raises(InputError, match="1 pair of the same image in two parts"):
        run_here(tmp_path / "run", f"data.root={leaking}")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [FILE]


def test_an_accepted_run_counts_them_and_goes_on_when_it_is_resumed(
    leaking: Path, tmp_path: Path, run_here: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "SETTLED_SECONDS", -1.0)
    words = [f"data.root={leaking}", "data.accept=[duplicates,contradictions]", "cache=images"]
    words.append(f"cache.dir={tmp_path / 'cache'}")
    run_here(tmp_path / "run", *words)
    said = capsys.readouterr().out
    assert "copies    1 pair of the same image in two parts, accepted" in said
    assert "copies    data.accept=[contradictions] has no effect: there are none" in said
    counted = {"duplicates": 1, "contradictions": 0, "within_parts": 0, "accepted": ["contradictions", "duplicates"]}
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["data"]["copies"] == counted
    assert json.loads((tmp_path / "run" / "model" / "model.json").read_text())["data"]["copies"] == counted
    monkeypatch.setattr(pictures, "read_pixels", None)  # what they show is remembered
    run_here(tmp_path / "run", *words)


def test_copies_within_a_part_are_counted_in_the_plan(
    images: Path, tmp_path: Path, run_here: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    bitmap(images / "train" / "down" / "0.png", images / "train" / "down" / "again")
    run_here(tmp_path / "run", f"data.root={images}", "mode=plan")
    assert "copies    1 pair of the same image within one part\n" in capsys.readouterr().out
    assert (tmp_path / "run" / FILE).exists()


def test_the_command_ends_with_code_2(leaking: Path, tmp_path: Path, train: Callable[..., object]) -> None:
    done = train("data=folder", f"data.root={leaking}", "mode=plan", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 2, done.stderr
    assert "expected each image in one part and under one label" in done.stderr
    assert not (tmp_path / "run" / "plan.json").exists()
