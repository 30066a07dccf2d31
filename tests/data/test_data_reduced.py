"""Large JPEGs decoded at a smaller scale: where, to what pixels, and alike in training, the cache and prediction."""

from __future__ import annotations

import base64
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from graft.config.choices import CacheKind, DataKind
from graft.config.schema_images import AugmentConfig, CacheConfig, DataConfig
from graft.data.datamodule import DataModule
from graft.data.datasets import load_table
from graft.data.images import decode
from graft.data.pixels import Unreadable, measure, read_pixels
from graft.data.transforms import eval_transform, jpeg_edge
from graft.models.preprocess import Preprocess
from graft.results.model import Preparation

SIDE = 32
EDGE = 2 * SIDE
# 8 × 8 grey pixels 0, 3, 6 …; libjpeg has no smaller scales for a lossless one.
LOSSLESS = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALCAAIAAgBAREA/8QAFgABAQEAAAAAAAAAAAAAAAAAAgUI/9oACAEBAAEAAM/tttuw2227Dbbbs"
    "Nttuw2227DbbbsNttuw222//9k="
)


def preprocess(*, reduced: bool = True, size: int = SIDE, crop: float = 1.0) -> Preprocess:
    return Preprocess(
        image_size=size, crop_fraction=crop, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3,
        reduced_jpeg=reduced,
    )  # fmt: skip


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft shapes, as a photograph's, with grain."""
    generator = np.random.default_rng(seed)
    blots = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    soft = np.asarray(blots.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(soft + generator.normal(0, 4, soft.shape), 0, 255).astype(np.uint8))


def saved(folder: Path, image: Image.Image, name: str = "image.jpg", **options: object) -> str:
    image.save(folder / name, **{"quality": 90, **options})
    return str(folder / name)


@pytest.mark.parametrize(("shorter", "scale"), [(127, 1), (128, 2), (255, 2), (256, 4), (511, 4), (512, 8), (1100, 8)])
def test_the_shorter_edge_keeps_twice_the_targets_length(tmp_path, shorter, scale):
    path = saved(tmp_path, picture(shorter + 40, shorter))
    pixels = read_pixels(path, 3, EDGE)
    assert pixels.shape == (math.ceil(shorter / scale), math.ceil((shorter + 40) / scale), 3)
    assert pixels.shape[0] >= EDGE
    assert measure(path, EDGE) == (*pixels.shape[:2], False)


@pytest.mark.parametrize("size", [(170, 128), (400, 300), (600, 800)], ids=["half", "quarter", "eighth"])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"mode": "L"}, {"mode": "CMYK"}],
    ids=["baseline", "progressive", "4:4:4", "grey", "CMYK"],
)
def test_what_is_resized_looks_the_same(tmp_path, size, options):
    options = dict(options)
    path = saved(tmp_path, picture(*size).convert(options.pop("mode", "RGB")), **options)
    whole, reduced = (
        eval_transform(kept)(decode(path, 3, jpeg_edge(kept))) * 255
        for kept in (preprocess(reduced=False), preprocess())
    )
    apart = (whole - reduced).abs()
    assert 0 < apart.mean() < 0.6  # grey levels of 255, each way rounded on its own
    assert apart.max() < 4.5


def test_what_is_not_far_larger_is_the_same_to_the_bit(tmp_path):
    spec = find_spec("elpv_dataset")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    cell = str(Path(spec.submodule_search_locations[0]) / "data" / "images" / "cell0001.png")
    large = saved(tmp_path, picture(600, 500), "large.png")
    small = saved(tmp_path, picture(140, 127))
    for path, channels in ((cell, 1), (cell, 3), (large, 3), (small, 3)):
        np.testing.assert_array_equal(read_pixels(path, channels, EDGE), read_pixels(path, channels))


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_photograph_is_turned_and_reduced(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = read_pixels(saved(tmp_path, picture(300, 260)), 3, EDGE)
    path = saved(tmp_path, picture(300, 260), "turned.jpg", exif=exif)
    turned = np.rot90(plain, {3: 2, 6: -1, 8: 1}[orientation])
    np.testing.assert_array_equal(read_pixels(path, 3, EDGE), turned)
    assert measure(path, EDGE) == (*turned.shape[:2], False)


def test_one_channel_and_several_pictures_in_one_file(tmp_path):
    grey = read_pixels(saved(tmp_path, picture(300, 260)), 1, EDGE)
    assert grey.shape == (65, 75, 1)
    path = str(tmp_path / "two.mpo")
    picture(300, 260).save(path, save_all=True, append_images=[picture(300, 260, seed=1)], quality=90)
    np.testing.assert_array_equal(read_pixels(path, 1, EDGE), grey)


def test_a_lossless_jpeg_is_decoded_whole(tmp_path):
    path = tmp_path / "lossless.jpg"
    path.write_bytes(base64.b64decode(LOSSLESS))
    np.testing.assert_array_equal(read_pixels(str(path), 1, 2)[..., 0], np.arange(64).reshape(8, 8) * 3)


def test_a_damaged_one_is_told_as_ever(tmp_path):
    path = Path(saved(tmp_path, picture(300, 260)))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(Unreadable, match="truncated"):
        read_pixels(str(path), 3, EDGE)


@pytest.mark.parametrize("share", [0.08, 0.25, 0.5, 1.0])
def test_the_smallest_random_part_keeps_twice_the_targets_length(share):
    edge = jpeg_edge(preprocess(), [share, 1.0])
    assert edge is not None
    assert math.sqrt(0.75 * share) * edge >= 2 * SIDE > math.sqrt(0.75 * share) * (edge - 1)
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(SIDE, (share, share))
    parts = [crop.make_params([torch.empty(3, edge, edge)]) for _ in range(100)]
    assert min(min(part["height"], part["width"]) for part in parts) >= 2 * SIDE - 1  # they are rounded
    assert jpeg_edge(preprocess(reduced=False), [share, 1.0]) is None


def test_the_centre_crop_counts():
    assert jpeg_edge(preprocess(size=224, crop=0.875)) == 512
    assert jpeg_edge(preprocess(size=224)) == 448
    assert jpeg_edge(preprocess(size=224, reduced=False)) is None


# --- as training, the cache and prediction have it


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, count in (("train", 2), ("val", 1)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                place = tmp_path / "images" / part / name
                place.mkdir(parents=True, exist_ok=True)
                saved(place, picture(300 + 90 * number, 260, seed=4 * label + number), f"{number}.jpg")
    return tmp_path / "images"


def module(root: Path, augment: AugmentConfig, *, reduced: bool = True, cache: bool = False) -> DataModule:
    data = DataConfig(kind=DataKind.folder, root=str(root), num_workers=0)
    kept = CacheConfig(kind=CacheKind.images, dir=str(root.parent / "cache")) if cache else None
    return DataModule(load_table(data), data, augment, preprocess(reduced=reduced), seed=0, cache=kept, say=str)


def entries(root: Path) -> int:
    return len(list((root.parent / "cache").glob("*.graft")))


PLAIN, CROPPED = AugmentConfig(name="none"), AugmentConfig(name="crop", crop_scale=[0.8, 1.0])


@pytest.mark.parametrize(("augment", "lengths"), [(PLAIN, (65, 65)), (CROPPED, (130, 65))], ids=["whole", "crop"])
def test_training_and_evaluation_are_decoded_as_each_needs_with_the_cache_and_without(
    root, augment, lengths, monkeypatch
):
    plain, kept = module(root, augment), module(root, augment, cache=True)
    decoded = [plain.images("train", augmented=True).source[0], plain.images("val").source[0]]
    assert tuple(min(image.shape[1:]) for image in decoded) == lengths
    batches = [next(iter(loader)) for loader in (plain.train_dataloader(), plain.val_dataloader())]
    kept.prepare_data()
    assert entries(root) == (1 if augment is PLAIN else 2)
    monkeypatch.setattr("graft.data.images.decode", None)  # nothing is decoded any more
    for batch, loader in zip(batches, (kept.train_dataloader(), kept.val_dataloader()), strict=True):
        again = next(iter(loader))
        assert all(torch.equal(batch[name], again[name]) for name in batch)


@pytest.mark.parametrize("augment", [PLAIN, CROPPED], ids=["whole", "crop"])
@pytest.mark.parametrize("reduced", [True, False])
def test_prediction_sees_what_evaluation_saw(root, augment, reduced):
    data = module(root, augment, reduced=reduced)
    ready = Preparation(data.preprocess)(data.table.val[0].path)
    assert torch.equal(ready, data.images("val")[(0, 0)]["image"])


def test_the_cache_never_mixes_the_two(root):
    reduced, whole = (module(root, PLAIN, reduced=reduced, cache=True) for reduced in (True, False))
    first, second = (data.images("train")[(0, 0)]["image"] for data in (reduced, whole))
    assert entries(root) == 2
    assert not torch.equal(first, second)
    assert torch.equal(second, module(root, PLAIN, reduced=False).images("train")[(0, 0)]["image"])


def test_a_record_without_the_key_means_whole():
    told = {"image_size": 8, "crop_fraction": 1.0, "interpolation": "bilinear", "mean": [0.5], "std": [1.0]}
    assert Preprocess.of(told).reduced_jpeg is False
    assert Preprocess.of({**told, "reduced_jpeg": True}).reduced_jpeg is True
