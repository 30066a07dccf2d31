"""Files that show the same are told from those that do not; each picture is decoded for it once at most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.config.choices import DataKind, OnError
from graft.config.faults import ConfigError
from graft.config.schema_images import DataConfig
from graft.data import contents, pictures, solar_cells
from graft.data.contents import Contents, Version
from graft.data.datasets import load_table
from graft.data.pictures import Pictures, ReadableFile
from graft.data.split import carve


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may be remembered as soon as it has been written."""
    monkeypatch.setattr(contents, "SETTLED_SECONDS", -1.0)


def picture(path: Path, seed: int, size: tuple[int, int] = (12, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def readable(path: Path) -> ReadableFile:
    content, status = Contents().of(str(path))
    return ReadableFile(str(path), content, Version.of(status))


def looked(record: Path | None, *paths: Path) -> Pictures:
    """What a run does."""
    found = Pictures(3, record)
    found.tell_apart([readable(path) for path in paths])
    found.keep()
    return found


def test_only_what_can_be_the_same_is_decoded_and_only_once(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{k}.png", k, (12, 16 + max(0, k - 2))) for k in range(5)]  # three have one size
    assert looked(tmp_path / "record", *paths).decoded == 3
    assert looked(tmp_path / "record", *paths).decoded == 0
    paths.append(picture(tmp_path / "5.png", 5, (12, 18)))  # which one of the others has
    assert looked(tmp_path / "record", *paths).decoded == 2


def test_equal_bytes_are_decoded_once(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{k}.png", 0) for k in range(3)]
    assert looked(None, *paths).decoded == 0
    assert looked(None, *paths, picture(tmp_path / "other.png", 1)).decoded == 2


def test_a_png_is_measured_without_being_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "a.png", 0)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    assert pictures.sides(str(path)) == (12, 16)


def test_a_file_that_changes_meanwhile_is_not_remembered(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{k}.png", k) for k in range(2)]
    files = [readable(path) for path in paths]
    picture(paths[0], 9)
    found = Pictures(3, tmp_path / "record")
    found.tell_apart(files)
    found.keep()
    assert Pictures(3, tmp_path / "record").tell_apart(files).keys() == {file.content for file in files}
    assert looked(tmp_path / "record", paths[1], picture(tmp_path / "2.png", 3)).decoded == 1


def test_what_decoding_alone_finds_damaged_is_named_before_training(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for part in ("train", "val"):
        for label, name in enumerate(("cat", "dog")):
            place = tmp_path / part / name
            place.mkdir(parents=True)
            Image.fromarray(np.roll(noise, 2 * label + (part == "val"), 0)).save(place / "0.jpg", quality=95)
    damaged = tmp_path / "train" / "cat" / "0.jpg"
    whole = damaged.read_bytes()
    table = whole.index(b"\xff\xc4") + 5
    damaged.write_bytes(whole[:table] + b"\xff" * 16 + whole[table + 16 :])  # no Huffman table is such
    with pytest.raises(ConfigError, match=r"1 that cannot: .*train/cat/0\.jpg \(broken data stream"):
        load_table(DataConfig(kind=DataKind.folder, root=str(tmp_path)))


# --- graft's own split


def test_copies_are_carved_together_whatever_their_order() -> None:
    names = [f"{number}.png" for number in range(60)]
    strata = [number % 3 for number in range(60)]
    groups = [number % 12 if number < 24 else number for number in range(60)]  # twelve pairs
    carved = carve(names, strata, 0.25, seed=0, groups=groups)
    chosen = {names[position] for position in carved}
    assert all((f"{k}.png" in chosen) == (f"{k + 12}.png" in chosen) for k in range(12))
    assert len(chosen) == 15
    assert [sum(strata[position] == stratum for position in carved) for stratum in range(3)] == [5, 5, 5]
    turned = carve(names[::-1], strata[::-1], 0.25, seed=0, groups=groups[::-1])
    assert {names[::-1][position] for position in turned} == chosen


def test_without_copies_groups_change_nothing() -> None:
    names = [f"{number}.png" for number in range(50)]
    strata = [number % 4 for number in range(50)]
    assert carve(names, strata, 0.3, seed=3) == carve(names, strata, 0.3, seed=3, groups=names)


@pytest.mark.parametrize("on_error", list(OnError))
def test_no_part_that_graft_carves_shares_a_picture(tmp_path: Path, on_error: OnError) -> None:
    for label, name in enumerate(("cat", "dog")):
        for number in range(20):
            path = picture(tmp_path / name / f"{number:02}.png", 100 * label + number)
            if number % 2:
                Image.open(path).save(path.with_name(f"copy-{number}.bmp"))
    for seed in range(5):
        data = DataConfig(
            kind=DataKind.folder, root=str(tmp_path), val_fraction=0.25, test_fraction=0.25, split_seed=seed,
            on_error=on_error,
        )  # fmt: skip
        table = load_table(data)
        shown = [{sample.picture for sample in part} for part in (table.train, table.val, table.test)]
        assert sum(map(len, shown)) == len(set.union(*shown)) == 40
        assert [len(part) for part in (table.val, table.test)] == [11, 15]


def test_the_solar_cells_test_part_parts_no_copies_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    for number in range(40):
        for copy in range(2):
            name = f"{copy}-{number}.png"
            picture(tmp_path / "data" / name, number)
            lines.append(f"{name} {number % 2:.1f} mono")
    (tmp_path / "data" / "labels.csv").write_text("\n".join(lines))
    monkeypatch.setattr(solar_cells, "_installed", lambda: tmp_path)
    table = load_table(DataConfig(kind=DataKind.solar_cells))
    shown = [{sample.picture for sample in part} for part in (table.train, table.val, table.test)]
    assert sum(map(len, shown)) == len(set.union(*shown)) == 40
    assert len(table.test) == 20
