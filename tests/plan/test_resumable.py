"""What a resumed run must share: a change that would give other bits is noticed, one that would not is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.plan.test_plan import config_of, plan_of, resnet18, table_of

from graft.data.table import Sample, Table
from graft.plan import make_plan
from graft.resumable import shared


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


def test_images_count_by_name_label_part_and_size_and_not_by_where_they_lie() -> None:
    def division(folder: str, **changes: object) -> str:
        samples = [
            Sample(path=f"{folder}/{k % 2}/{k}.png", label=k % 2, size=7, modified=hash(folder)) for k in range(6)
        ]
        samples[1] = replace(samples[1], **changes)
        return Table(classes=("a", "b"), train=tuple(samples[:4]), val=tuple(samples[4:]), test=()).division()

    assert division("/one/place") == division("/another")
    changed = {division("/one", label=0), division("/one", size=8), division("/one", path="/one/1/x.png")}
    assert len(changed | {division("/one")}) == 4


def test_other_images_are_told_by_their_counts() -> None:
    plan = make_plan(config_of("cache=none"), table_of(16), resnet18)
    assert shared(plan)["images, labels and their parts"].startswith("16 train, 4 val, 0 test (")
