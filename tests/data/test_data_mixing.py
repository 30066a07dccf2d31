"""Mixup and cutmix: what the pixels and targets become, and that nothing but seed, epoch and sample decides it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graft.config.choices import CacheKind, DataKind
from graft.config.rules_cache import cache_faults
from graft.config.schema_images import AugmentConfig, CacheConfig, DataConfig
from graft.data.datamodule import DataModule
from graft.data.datasets import load_table
from graft.data.mixing import Mix, MixedImages, PairedBatchSampler, draw_mix
from graft.data.sampling import Key, drawn_from
from graft.models.preprocess import Preprocess

PREPROCESS = Preprocess(image_size=8, crop_fraction=1.0, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
BLACK, WHITE = torch.zeros(3, 12, 10), torch.ones(3, 12, 10)


def augment(**options: object) -> AugmentConfig:
    return AugmentConfig(name="test", **options)


def module(root: Path, batch_size: int = 4, workers: int = 0, seed: int = 0, **options: object) -> DataModule:
    data = DataConfig(kind=DataKind.folder, root=str(root), batch_size=batch_size, num_workers=workers)
    return DataModule(load_table(data), data, augment(**options), PREPROCESS, seed=seed)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one grey level each, so that what mixing did can be read off the pixels."""
    folder = tmp_path_factory.mktemp("grey")
    for number in range(14):
        part, name = ("val", "ab"[number % 2]) if number < 4 else ("train", "ab"[number % 2])
        (folder / part / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 15 * number, dtype=np.uint8)).save(folder / part / name / f"{number:02}.png")
    return folder


def test_mixup_blends_images_and_targets_by_one_share():
    mix = Mix(weight=0.7)
    assert torch.allclose(mix.image(WHITE, BLACK), torch.full((3, 12, 10), 0.7))
    assert mix.target(torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0.5, 0.5])).tolist() == pytest.approx(
        [0.7, 0.15, 0.15]
    )


@pytest.mark.parametrize("seed", range(8))
def test_cutmixs_target_is_the_share_of_the_area_that_is_left(seed):
    with drawn_from(seed):
        mix = draw_mix(augment(cutmix=1.0), 12, 10)
    mixed = mix.image(WHITE, BLACK)
    assert set(mixed.unique().tolist()) <= {0.0, 1.0}
    assert float(mixed.mean()) == pytest.approx(mix.weight)
    assert WHITE.min() == 1  # the image itself is not written to


def test_the_shares_are_betas():
    with drawn_from(0):
        shares = torch.tensor([draw_mix(augment(mixup=0.4), 8, 8).weight for _ in range(4000)])
    # Beta(α, α): mean 1/2, variance 1 / (4 (2 α + 1)).
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(shares.var()) == pytest.approx(1 / (4 * 1.8), abs=0.006)


def test_with_both_each_is_as_likely():
    with drawn_from(0):
        boxes = [draw_mix(augment(mixup=1.0, cutmix=1.0), 8, 8).box is None for _ in range(1000)]
    assert sum(boxes) == pytest.approx(500, abs=50)


def test_partners_are_the_next_of_the_whole_step_for_any_number_of_processes():
    alone = list(PairedBatchSampler(11, 8, seed=1, shuffle=True))
    two = [list(PairedBatchSampler(11, 4, seed=1, shuffle=True, rank=rank, world=2)) for rank in range(2)]
    for step, pairs in enumerate(alone):
        assert [pair.partner for pair in pairs] == [pair.key for pair in (*pairs[1:], pairs[0])]
        assert {pair for rank in range(2) for pair in two[rank][step]} == set(pairs)
        assert {pair.step for pair in pairs} == {step}


def items(data: DataModule, epoch: int = 0) -> dict[int, tuple[bytes, bytes]]:
    """What each image became in an epoch."""
    loader = data.loader("train", train=True)
    loader.batch_sampler.set_epoch(epoch)
    found = {}
    for batch in loader:
        for place, index in enumerate(batch["index"].tolist()):
            found[index] = (batch["image"][place].numpy().tobytes(), batch["target"][place].numpy().tobytes())
    return found


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_a_mixture_depends_on_seed_epoch_and_sample_alone(root, per):
    options = {"mixup": 0.8, "cutmix": 1.0, "mix_per": per, "hflip": 0.5}
    found = items(module(root, **options))
    assert items(module(root, workers=2, **options)) == found
    assert items(module(root, **options), epoch=1) != found
    assert items(module(root, seed=1, **options)) != found
    resumed = module(root, **options).loader("train", train=True)
    resumed.load_state_dict({"epoch": 0, "batch": 2})
    rest = {int(index): batch["target"][place] for batch in resumed for place, index in enumerate(batch["index"])}
    assert rest
    assert all(found[index][1] == target.numpy().tobytes() for index, target in rest.items())


def test_another_seed_mixes_the_same_pair_otherwise(root):
    data = module(root, mixup=1.0)
    (pair,) = next(iter(PairedBatchSampler(10, 1)))
    pair = pair._replace(partner=Key(0, 9))  # of the other class
    shares = [
        MixedImages(data.images("train"), data.augment, classes=2, seed=seed).__getitems__([pair])["target"][0].tolist()
        for seed in (0, 0, 1)
    ]
    assert shares[0] == shares[1] != shares[2]


@pytest.mark.parametrize(("per", "shares"), [("batch", 3), ("sample", 10)])
def test_the_pixels_and_the_target_tell_the_same_share(root, per, shares):
    """Ten images in three batches. Every image is grey, so its level says how much of the partner it holds."""
    data = module(root, mixup=1.0, mix_per=per)
    seen = set()
    for batch in data.loader("train", train=True):
        levels = torch.tensor([15 * int(Path(data.table.train[i].path).stem) / 255 for i in batch["index"].tolist()])
        partner_levels, labels = levels.roll(-1), batch["label"]
        for place, mixed in enumerate(batch["image"]):
            assert float(mixed.max()) == pytest.approx(float(mixed.min()), abs=1e-6)
            share = float((mixed.mean() - partner_levels[place]) / (levels[place] - partner_levels[place]))
            seen.add(round(share, 4))
            partner = int(labels.roll(-1)[place])
            own = int(labels[place])
            expected = share if own != partner else 1.0
            assert float(batch["target"][place, own]) == pytest.approx(expected, abs=1e-4)
            assert float(batch["target"][place].sum()) == pytest.approx(1.0)
    assert len(seen) == shares


def test_evaluation_is_never_mixed(root):
    batch = next(iter(module(root, mixup=1.0).loader("val")))
    assert batch["target"].equal(batch["label"])


def test_an_image_alone_in_its_step_stays_as_it_is():
    pair = list(PairedBatchSampler(5, 4, seed=0, shuffle=True))[-1][0]
    assert pair.partner == pair.key
    assert isinstance(pair.key, Key)


@pytest.mark.parametrize("views", [0, 4])
def test_stored_features_cannot_be_mixed(views):
    cache = CacheConfig(kind=CacheKind.features, views=views)
    assert [str(fault) for fault in cache_faults(cache, augment(mixup=0.2, hflip=0.5))] == [
        "cache: expected no mixing of images before the cut, where each image has stored features of its own,"
        " received mixup 0.2, cutmix 0; try augment.mixup=0 augment.cutmix=0, or cache=none"
    ]
