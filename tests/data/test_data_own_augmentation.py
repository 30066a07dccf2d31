"""augment.target: augmentations by import path."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graft.config.faults import InputError
from graft.config.presets import composed
from graft.config.schema_images import AugmentConfig
from graft.data.images import ImageFiles
from graft.data.loader import KeyedImages, KeyedLoader
from graft.data.own_augmentation import OwnAugmentation, check_augmentation
from graft.data.sampling import KeyedBatchSampler
from graft.data.table import Sample
from graft.data.transforms import train_transform
from graft.models.preprocess import Preprocess

SIDE = 16
PREPROCESS = Preprocess(
    image_size=SIDE, crop_fraction=1.0, interpolation="bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
)


def images(folder: Path, target: str) -> KeyedImages:
    samples: list[Sample] = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        samples.append(Sample(str(folder / f"{number}.png"), number % 2))
    transform = train_transform(AugmentConfig(name="own", target=target), PREPROCESS)
    return KeyedImages(ImageFiles([each.path for each in samples], 3, None), samples, transform, seed=3, random=True)


def test_whatever_it_draws_from_follows_from_seed_epoch_and_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = images(tmp_path, "tests.own_augmentations:Noise")
    random.seed(1)
    np.random.seed(1)
    before = random.random(), float(np.random.rand())
    random.seed(1)
    np.random.seed(1)
    first = data[2, 1]["image"]
    assert (random.random(), float(np.random.rand())) == before, "the training's own random numbers are not touched"
    random.seed(9)
    np.random.seed(9)
    assert torch.equal(data[2, 1]["image"], first)
    assert not torch.equal(data[3, 1]["image"], first)


def test_workers_give_the_same_bits(tmp_path: Path) -> None:
    data = images(tmp_path, "tests.own_augmentations:Noise")
    batches = [
        torch.cat([batch["image"] for batch in KeyedLoader(data, KeyedBatchSampler(4, 2, seed=3), num_workers=workers)])
        for workers in (0, 2)
    ]
    assert torch.equal(*batches)


def test_torchvisions_own_class_with_arguments() -> None:
    step = OwnAugmentation("torchvision.transforms.v2:RandomInvert", {"p": 1.0})
    assert torch.equal(step(torch.full((3, 4, 4), 5, dtype=torch.uint8)), torch.full((3, 4, 4), 250, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("tests.own_augmentations:halved", r"\[3, 16, 16\] uint8, received \[3, 16, 16\] torch.float32"),
        ("tests.own_augmentations:broken", r"received KeyError: .*\n  .*own_augmentations.py, line \d+, in broken"),
        ("tests.own_augmentations:Noize", "try tests.own_augmentations:Noise"),
    ],
)
def test_what_is_wrong_with_it_shows_before_training(target: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        check_augmentation(target, {}, (3, SIDE, SIDE))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["augment=custom"], "augment.target: expected the import path of a class or function"),
        (["augment.target=nosuchpackage:A", "cache=none"], "a module that exists"),
        (["augment.target=tests.own_augmentations:Noise", "cache=features", "cache.views=2"], "cache.views: expected"),
    ],
)
def test_what_it_cannot_be_had_with(words: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        composed(words)
