"""Crops, mirror images, re-encodings and other brightness of an image in another part are found, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from graft.audit.looks import SIDE, Looks, look_at
from graft.audit.near import find_near
from graft.data.table import Sample


def scene(seed: int) -> Image.Image:
    """Blobs of many sizes, no two scenes alike."""
    generator = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize(
                (160, 120), Image.BICUBIC
            ),
            dtype=np.float64,
        )
        for side in (3, 6, 12, 24)
    ]
    return Image.fromarray(np.mean(layers, 0).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))


def jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


CHANGES = {
    "crop": lambda image: image.crop((3, 5, 155, 119)),
    "mirror image": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "re-encoding": jpeg,
    "brightness": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
}


def looks_of(images: list[Image.Image], folder: Path) -> tuple[Looks, list[Sample]]:
    samples: list[Sample] = []
    for number, image in enumerate(images):
        path = folder / f"{number}.png"
        image.save(path)
        samples.append(Sample(path=str(path), label=0, content=f"{number:032x}"))
    return look_at(samples, 3), samples


@pytest.mark.parametrize("change", CHANGES)
def test_every_copy_is_found_and_no_other_pair(change: str, tmp_path: Path) -> None:
    scenes = [scene(seed) for seed in range(30)]
    others = [scene(seed) for seed in range(100, 110)]
    copies = [CHANGES[change](image) for image in scenes[:10]]
    looks, _ = looks_of([*scenes, *others, *copies], tmp_path)
    near = find_near(looks.small_NSS, [0] * 30 + [1] * 20, [str(number) for number in range(50)])
    assert {(pair.one, pair.other) for pair in near.pairs} == {(number, 40 + number) for number in range(10)}
    assert {pair.mirrored for pair in near.pairs} == {change == "mirror image"}
    assert [pair.correlation for pair in near.pairs] == sorted((pair.correlation for pair in near.pairs), reverse=True)


def test_identical_images_and_images_of_one_part_are_no_near_copies(tmp_path: Path) -> None:
    image = scene(0)
    looks, _ = looks_of([image, image, jpeg(image), scene(1)], tmp_path)
    assert [(pair.one, pair.other) for pair in find_near(looks.small_NSS, [0, 1, 1, 0], "aabc").pairs] == [(0, 2)]
    assert find_near(looks.small_NSS, [0, 0, 0, 0], "abcd").pairs == ()


def test_looks_are_remembered_by_content(tmp_path: Path) -> None:
    plain = Image.new("RGB", (90, 60), (200, 100, 0))
    looks, samples = looks_of([plain, scene(2)], tmp_path)
    assert (looks.width_N[0], looks.height_N[0]) == (90, 60)
    assert looks.border_N3[0] == pytest.approx([200, 100, 0])
    assert looks.spread_N[0] == 0 < looks.spread_N[1]
    assert looks.small_NSS.shape == (2, SIDE, SIDE)
    record = tmp_path / "looks" / "record"
    first = look_at(samples, 3, record)
    for sample in samples:
        Path(sample.path).write_bytes(b"gone")  # of which nothing is read again
    again = look_at(samples, 3, record)
    assert np.array_equal(first.small_NSS, again.small_NSS)
    assert np.array_equal(first.border_N3, again.border_N3)
