"""A property of the files that alone predicts the label is named; what varies by chance is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from graft.audit.looks import look_at
from graft.audit.shortcuts import Shortcut, find_shortcuts
from graft.audit.shortcuts import _auroc as auroc  # pyright: ignore[reportPrivateUsage]
from graft.data.table import Sample

CLASSES = ("ant", "bee", "cicada", "dragonfly")
EACH = 15


def find(place: Path, change: str = "") -> dict[str, Shortcut]:
    """Noise of varying brightness in four classes; the class bee has the change."""
    seeded = np.random.default_rng(0)
    samples: list[Sample] = []
    for number in range(EACH * len(CLASSES)):
        label = number % len(CLASSES)
        bee = CLASSES[label] == "bee"
        shape = (40, 50, 3) if bee and change == "proportions" else (40, 40, 3)
        pixels = (seeded.integers(0, 256, shape) * seeded.uniform(0.5, 1)).astype(np.uint8)
        if bee and change == "border":
            pixels[:3] = pixels[-3:] = pixels[:, :3] = pixels[:, -3:] = 128
        if bee and change == "brightness":
            pixels = pixels // 3
        image = Image.fromarray(pixels)
        folder = place / ("b" if bee and change == "folder" else "a")
        folder.mkdir(exist_ok=True)
        path = folder / f"{number}.png"
        (image.convert("L") if bee and change == "grey" else image).save(path)
        samples.append(Sample(path=str(path), label=label, content=f"{number:032x}"))
    labels = [int(str(sample.label)) for sample in samples]
    return {each.name: each for each in find_shortcuts(look_at(samples, 3), samples, labels, CLASSES)}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("border", "border"),
        ("proportions", "proportions"),
        ("brightness", "brightness and contrast"),
        ("grey", "colour channels"),
        ("folder", "folder"),
    ],
)
def test_a_property_that_marks_a_class_is_named(tmp_path: Path, change: str, name: str) -> None:
    shortcuts = find(tmp_path, change)
    assert shortcuts[name].is_suspect
    assert (CLASSES[shortcuts[name].place], shortcuts[name].auroc) == ("bee", pytest.approx(1, abs=0.02))
    assert shortcuts[name].accuracy >= shortcuts[name].chance
    assert next(iter(shortcuts.values())).is_suspect


def test_what_varies_by_chance_is_no_shortcut(tmp_path: Path) -> None:
    shortcuts = find(tmp_path)
    assert not [each for each in shortcuts.values() if each.is_suspect]
    assert set(shortcuts) == {"file size", "brightness and contrast", "border"}  # the others are the same everywhere
    assert all(each.chance == 0.25 for each in shortcuts.values())


def test_the_area_under_the_curve_is_that_of_scikit_learn() -> None:
    seeded = np.random.default_rng(1)
    scores, positive = seeded.integers(0, 6, 80).astype(float), seeded.integers(0, 2, 80).astype(bool)
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
