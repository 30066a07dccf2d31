"""Images of one group stay in one part: graft's own split never parts them, and parts that do are refused."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graft.audit.groups import FILE, check_groups, find_groups
from graft.config.choices import DataKind
from graft.config.faults import InputError
from graft.config.schema_images import DataConfig
from graft.data.datasets import load_table
from graft.data.split import carve, connected
from graft.data.table import PARTS, Table
from graft.heads import choice
from graft.heads.choice import Examples

Run = Callable[..., float | None]


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(path)
    return path


def patients(root: Path, header: str = "path,label,patient", part: Callable[[int], str] = lambda _: "") -> Path:
    """60 images of 20 patients, two of class ant and one of class bee each."""
    rows = [header]
    for number in range(60):
        picture(root / f"p{number // 3:02}_{number}.png", number)
        cells = [f"p{number // 3:02}_{number}.png", "bee" if number % 3 == 2 else "ant", f"P{number // 3}"]
        rows.append(",".join([*cells, *filter(None, [part(number)])]))
    (root / "t.csv").write_text("\n".join(rows) + "\n")
    return root / "t.csv"


def table_of(file: Path, group: str | None, **options: object) -> Table:
    return load_table(DataConfig(kind=DataKind.csv, root=str(file), group=group, **options))


def parts_of_groups(table: Table) -> dict[str, set[str]]:
    return {part: {sample.group for sample in table.part(part)} for part in PARTS}


@pytest.mark.parametrize("group", ["patient", r"^(p\d+)_", r"(?P<group>p\d+)_", r"(p)(?P<group>\d+)_", r"p\d+"])
def test_a_split_of_ones_own_parts_no_group_and_keeps_the_classes_shares(tmp_path: Path, group: str) -> None:
    table = table_of(patients(tmp_path), group, val_fraction=0.25, test_fraction=0.2)
    groups = parts_of_groups(table)
    assert sum(map(len, groups.values())) == len(set[str]().union(*groups.values())) == 20
    assert {part: len(table.part(part)) for part in PARTS} == {"train": 36, "val": 12, "test": 12}
    assert table.counts("val") == (8, 4)
    assert table.counts("test") == (8, 4)
    check_groups(table, group, ())


def test_the_split_goes_by_the_seed_alone(tmp_path: Path) -> None:
    file = patients(tmp_path)
    one, again, other = (parts_of_groups(table_of(file, "patient", split_seed=seed)) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_groups_that_share_a_picture_stay_together() -> None:
    names = [f"{number}.png" for number in range(100)]
    groups = [f"g{number // 2}" for number in range(100)]
    pictures = [f"x{number // 2 % 5}" if number % 2 else f"own{number}" for number in range(100)]
    together = connected(groups, pictures)
    assert len(set(together)) == 5
    for seed in range(10):
        carved = carve(names, [0] * 100, 0.3, seed, together)
        assert len(carved) in (20, 40)
        assert all(
            position in carved or together[position] not in {together[k] for k in carved} for position in range(100)
        )


def test_images_without_a_group_are_each_their_own() -> None:
    assert connected(["", "", "a", "", "a"]) == [0, 1, 2, 3, 2]


def test_a_long_chain_of_images_is_one() -> None:
    number = 50_000
    assert set(connected([k // 2 for k in range(number)], [(k + 1) // 2 for k in range(number)])) == {0}


def test_a_group_in_two_given_parts_is_refused_with_a_list(tmp_path: Path) -> None:
    file = patients(
        tmp_path, "path,label,patient,split", lambda number: "val" if number in (0, 5) or number > 50 else "train"
    )
    table = table_of(file, "patient")
    with pytest.raises(InputError) as caught:
        check_groups(table, "patient", (), tmp_path)
    text = str(caught.value)
    assert "data.group: expected each group in one part, received 2 of 20 in two or more" in text
    assert "P0 (2 train, 1 val); P1 (2 train, 1 val)" in text
    assert "data.accept=[groups]" in text
    with open(tmp_path / FILE, newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [tuple(row.values()) for row in rows] == [
        ("P0", "train", "2"), ("P0", "val", "1"), ("P1", "train", "2"), ("P1", "val", "1"),
    ]  # fmt: skip
    check_groups(table, "patient", ("groups",), tmp_path)
    counted = {"key": "patient", "groups": 20, "parts": {"train": 17, "val": 5}, "in_two_parts": 2, "accepted": True}
    assert find_groups(table, "patient").record(("groups",)) == counted


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("patiant", r"is no column and gives none in any of 60 paths \(p00_0.*…\); try data\.group=patient$"),
        (r"^(p0\d)_", r"gives none in 30 of 60 paths \(p10_30\.png"),
        (r"(p\d+", r"missing \)"),
        (r"_(d+)", r"try _\(\\d\+\) \(outside quotes"),
    ],
)  # fmt: skip
def test_a_key_that_groups_nothing_is_answered_with_what_is_there(tmp_path: Path, group: str, expected: str) -> None:
    with pytest.raises(InputError, match=r"data\.group: expected a column \(path, label, patient\)") as caught:
        table_of(patients(tmp_path), group)
    assert re.search(expected, str(caught.value))


def test_a_row_without_a_group_is_named(tmp_path: Path) -> None:
    file = patients(tmp_path)
    file.write_text(file.read_text().replace("P19", "", 1))
    with pytest.raises(InputError, match="line 59 without patient"):
        table_of(file, "patient")


def test_folds_that_choose_a_penalty_part_no_group() -> None:
    generator = torch.Generator().manual_seed(0)
    person = torch.arange(60) // 2  # twins: what tells one image tells the other
    features = torch.randn(30, 200, generator=generator)[person] + 0.01 * torch.randn(60, 200, generator=generator)
    target = torch.randint(2, (30,), generator=generator)[person]
    folds = choice._folds(Examples(features, target, group_N=person), 5)
    assert {len(set(folds[person == number].tolist())) for number in range(30)} == {1}
    assert set(Counter(folds.tolist()).values()) == {12}
    alone = choice._folds(Examples(features, target), 5)
    assert set(Counter(alone.tolist()).values()) == {12}


# --- as a run


def test_a_run_counts_its_groups(
    images: Path, tmp_path: Path, run_here: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(tmp_path / "run", f"data.root={images}", r"data.group='/(\w+)/\d+'", "data.accept=[groups]", "mode=plan")
    text = capsys.readouterr().out
    assert "groups    2 by /(\\w+)/\\d+: 2 train, 2 val, 2 test\n" in text
    assert "groups    2 in two parts or more, accepted" in text
    groups = json.loads((tmp_path / "run" / "plan.json").read_text())["data"]["groups"]
    assert groups["in_two_parts"] == groups["groups"] == 2


def test_the_command_ends_with_code_2_and_names_both_faults(
    images: Path, tmp_path: Path, train: Callable[..., object]
) -> None:
    (images / "val" / "down" / "leak.png").write_bytes((images / "train" / "down" / "0.png").read_bytes())
    words = [
        "data=folder",
        f"data.root={images}",
        r"data.group='/(\w+)/'",
        "mode=plan",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    done = train(*words)
    assert done.returncode == 2, done.stderr
    assert "data.group: expected each group in one part, received 2 of 2" in done.stderr
    assert "expected each image in one part and under one label" in done.stderr
