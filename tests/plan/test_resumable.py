"""What a resumed run must share: a change that would give other bits is noticed, one that would not is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from graft.config.faults import InputError
from graft.data.datasets import load_table
from graft.data.table import Sample, Table
from graft.finetune.state import check_settings
from graft.plan.plan import make_plan
from graft.plan.resumable import shared
from tests.plan.test_plan import config_of, plan_of, resnet18, table_of


def differing(*overrides: str) -> set[str]:
    before, after = (
        shared(plan_of("freeze=none", "cache=none")),
        shared(plan_of("freeze=none", "cache=none", *overrides)),
    )
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["augment=light"], {"augment.hflip", "augment.crop_scale"}),
        (["augment.mixup=0.2"], {"augment.mixup"}),
        (["data.image_size=96"], {"data.image_size"}),
        (["data.reduced_jpeg=false"], {"data.reduced_jpeg"}),
        (["data.balanced=true", "trainer.clip_norm=1"], {"data.balanced", "trainer.clip_norm"}),
        (["head.dropout=0.5"], {"head.dropout"}),
        (["data.num_workers=2", "trainer.progress=false", "checkpoint.every_n_steps=3"], set()),
    ],
)
def test_what_changes_the_bits_is_told_by_its_key(overrides: list[str], expected: set[str]) -> None:
    assert differing(*overrides) == expected


def test_other_pooling_of_as_many_numbers_is_noticed() -> None:
    """The linear layer has the same shape, and its features are others."""
    words = ("head=stages", "head.taps=stage", "cache=none")
    before, after = shared(plan_of(*words)), shared(plan_of(*words, "head.pool=[mean,max]"))
    assert {name for name in before if before[name] != after[name]} == {"head.pool and head.taps"}


def bitmaps(root: Path) -> Path:
    """Two classes of 8 pictures, all in files of one size."""
    for number in range(16):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number // 2}.bmp")
    return root


def overwrite(root: Path) -> None:
    for number, path in enumerate(sorted(root.rglob("*.bmp"))):
        Image.new("RGB", (8, 8), (0, number, 9)).save(path)


def swap(root: Path) -> None:
    (root / "a").rename(root / "c")
    (root / "b").rename(root / "a")
    (root / "c").rename(root / "b")


def touch(root: Path) -> None:
    for path in root.rglob("*.bmp"):
        os.utime(path, (1, 1))


def write_again(root: Path) -> None:
    for path in root.rglob("*.bmp"):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)


def move(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("change", "goes_on"), [(overwrite, False), (swap, False), (touch, True), (write_again, True), (move, True)]
)
def test_a_run_goes_on_with_images_of_the_same_content_alone(
    tmp_path: Path, change: Callable[[Path], None], goes_on: bool
) -> None:
    root = bitmaps(tmp_path / "images")

    def settings() -> dict[str, Any]:
        place = root if root.exists() else root.with_name("elsewhere")
        config = config_of("data=folder", f"data.root={place}", "data.val_fraction=0.25", "cache=none")
        return shared(make_plan(config, load_table(config.data), resnet18))

    before = settings()
    sizes = [path.stat().st_size for path in root.rglob("*.bmp")]
    change(root)
    assert {*sizes} == {path.stat().st_size for path in tmp_path.rglob("*.bmp")}
    if goes_on:
        check_settings(before, settings())
    else:
        with pytest.raises(InputError, match=r"images, labels and their parts: 12 train, 4 val, 0 test \("):
            check_settings(before, settings())


def test_images_count_by_name_label_part_and_content() -> None:
    def division(**changes: object) -> str:
        samples = [Sample(path=f"/one/{k % 2}/{k}.png", label=k % 2, content=f"{k}") for k in range(6)]
        samples[1] = replace(samples[1], **changes)
        return Table(classes=("a", "b"), train=tuple(samples[:4]), val=tuple(samples[4:]), test=()).division()

    changed = {division(label=0), division(content="7"), division(path="/one/1/x.png"), division(target=(0.5, 0.5))}
    assert len(changed | {division()}) == 5


def test_other_images_are_told_by_their_counts() -> None:
    plan = make_plan(config_of("cache=none"), table_of(16), resnet18)
    assert shared(plan)["images, labels and their parts"].startswith("16 train, 4 val, 0 test (")
