"""Images enter as the donor saw them, and are varied as the config says."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch
from PIL import Image
from torchvision.models import ConvNeXt_Tiny_Weights, EfficientNet_B0_Weights, ResNet18_Weights
from torchvision.transforms import v2

from graft.config.faults import InputError
from graft.config.rules_cache import is_random
from graft.config.schema_images import AugmentConfig
from graft.data.images import decode
from graft.data.sampling import Key, keyed_randomness
from graft.data.transforms import eval_transform, resized_edge, train_transform
from graft.models.preprocess import Preprocess

PLAIN = Preprocess(image_size=8, crop_fraction=0.5, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
WHOLE = Preprocess(image_size=8, crop_fraction=1.0, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
IMAGE_CHW = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def cell() -> str:
    spec = find_spec("elpv_dataset")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return os.path.join(spec.submodule_search_locations[0], "data", "images", "cell0001.png")


def of_weights(weights) -> Preprocess:
    published = weights.transforms()
    size = published.crop_size[0]
    return Preprocess(
        image_size=size, crop_fraction=size / published.resize_size[0],
        interpolation=published.interpolation.value, mean=tuple(published.mean), std=tuple(published.std),
    )  # fmt: skip


WEIGHTS = [
    ResNet18_Weights.IMAGENET1K_V1,  # bilinear, 256 → 224
    EfficientNet_B0_Weights.IMAGENET1K_V1,  # bicubic, 256 → 224
    ConvNeXt_Tiny_Weights.IMAGENET1K_V1,  # bilinear, 236 → 224
]


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_a_real_image_enters_as_torchvisions_own_transform_makes_it(weights):
    preprocess = of_weights(weights)
    assert resized_edge(preprocess) == weights.transforms().resize_size[0]
    with Image.open(cell()) as image:
        theirs = weights.transforms()(image.convert("RGB"))
    ours = eval_transform(preprocess)(decode(cell(), 3))
    assert ours.shape == theirs.shape == (3, 224, 224)
    # Resizing rounds to whole grey levels: at most one apart, and hardly ever.
    levels = (ours - theirs) * torch.tensor(preprocess.std).view(3, 1, 1) * 255
    assert levels.abs().max() < 1.01
    assert (levels.abs() < 0.01).float().mean() > 0.995


@pytest.mark.parametrize("options", [None, {}, {"crop_scale": [0.3, 0.8]}], ids=["eval", "train", "part"])
def test_an_image_is_resized_to_the_same_grey_levels_on_every_processor(monkeypatch, options):
    """torchvision goes another way where the processor has no AVX2."""
    small = Preprocess(image_size=32, crop_fraction=0.9, interpolation="bilinear", mean=(0.0,) * 3, std=(1 / 255,) * 3)
    transform = (
        eval_transform(small) if options is None else train_transform(AugmentConfig(name="test", **options), small)
    )

    def levels() -> torch.Tensor:
        with keyed_randomness(0, Key(0, 0)):
            return transform(decode(cell(), 3))

    here = levels()
    for capability in ("DEFAULT", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        assert torch.equal(levels(), here)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_an_image_that_needs_no_resizing_enters_bit_for_bit_as_torchvisions(weights):
    edge = weights.transforms().resize_size[0]
    with Image.open(cell()) as image:
        picture = image.convert("RGB").resize((edge, edge))
    theirs = weights.transforms()(picture)
    pixels_CHW = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(edge, edge, 3).permute(2, 0, 1)
    assert torch.equal(eval_transform(of_weights(weights))(pixels_CHW), theirs)


def test_the_edge_is_exact_for_every_published_pair():
    for size, edge in [(224, 256), (224, 232), (224, 236), (299, 342), (384, 384), (600, 600), (240, 255)]:
        pair = Preprocess(image_size=size, crop_fraction=size / edge, interpolation="bilinear", mean=(0,), std=(1,))
        assert resized_edge(pair) == edge


def test_normalising_knows_its_channels():
    six = Preprocess(
        image_size=2, crop_fraction=1.0, interpolation="bilinear", mean=(0.5,) * 6, std=tuple(range(1, 7)), channels=6
    )
    out = eval_transform(six)(torch.full((6, 2, 2), 255, dtype=torch.uint8))
    torch.testing.assert_close(out[:, 0, 0], 0.5 / torch.arange(1, 7))


def test_memory_order_never_depends_on_the_inputs():
    hwc = IMAGE_CHW.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    out = eval_transform(WHOLE)(hwc)
    assert out.is_contiguous()
    assert torch.equal(out, eval_transform(WHOLE)(IMAGE_CHW))


def augmented(key: int = 0, preprocess: Preprocess = WHOLE, **options: object) -> torch.Tensor:
    transform = train_transform(AugmentConfig(name="test", **options), preprocess)
    with keyed_randomness(0, Key(0, key)):
        return transform(IMAGE_CHW)


def test_with_nothing_asked_for_training_images_are_evaluation_images():
    assert torch.equal(augmented(), eval_transform(WHOLE)(IMAGE_CHW))
    assert torch.equal(augmented(preprocess=PLAIN), eval_transform(PLAIN)(IMAGE_CHW))
    assert not is_random(AugmentConfig(name="none"))


def test_flips():
    image = eval_transform(WHOLE)(IMAGE_CHW)
    assert torch.equal(augmented(hflip=1.0), image.flip(-1))
    assert torch.equal(augmented(vflip=1.0), image.flip(-2))


def test_quarter_turns_are_the_four_and_each_comes_up():
    image = eval_transform(WHOLE)(IMAGE_CHW)
    turns = [torch.rot90(image, number, (-2, -1)) for number in range(4)]
    images = [augmented(key, quarter_turns=True) for key in range(80)]
    counts = [sum(torch.equal(image, turn) for image in images) for turn in turns]
    assert sum(counts) == 80
    assert min(counts) >= 10


@pytest.mark.parametrize(
    "options",
    [
        {"crop_scale": [0.3, 0.6]}, {"rotate": 30.0}, {"jitter": 0.5}, {"erase": 1.0}, {"hflip": 0.5, "vflip": 0.5},
        {"policy": "trivial"}, {"policy": "rand"}, {"policy": "augmix"},
    ],
)  # fmt: skip
def test_every_option_varies_and_is_repeated_by_its_key(options):
    assert is_random(AugmentConfig(name="test", **options))
    images = [augmented(key, **options) for key in range(6)]
    assert any(not torch.equal(images[0], image) for image in images[1:])
    assert all(torch.equal(image, augmented(key, **options)) for key, image in enumerate(images))
    assert all(image.shape == (3, 8, 8) and image.dtype == torch.float32 for image in images)


def test_what_is_erased_is_the_mean():
    centred = Preprocess(image_size=8, crop_fraction=1.0, interpolation="bilinear", mean=(0.4,) * 3, std=(0.2,) * 3)
    assert (augmented(preprocess=centred, erase=1.0) == 0).any()


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"hflip": 1.5}, "augment.hflip"),
        ({"rotate": -1.0}, "augment.rotate"),
        ({"crop_scale": [0.5]}, "augment.crop_scale"),
        ({"crop_scale": [0.9, 0.1]}, "augment.crop_scale"),
    ],
)
def test_options_out_of_range(options, key):
    with pytest.raises(InputError, match=key):
        augmented(**options)


@pytest.mark.parametrize(
    ("policy", "theirs"),
    [("trivial", v2.TrivialAugmentWide()), ("rand", v2.RandAugment()), ("augmix", v2.AugMix())],
)
def test_a_policy_is_torchvisions(policy, theirs):
    """Of the square that enters, before it is normalised."""
    for key in range(4):
        with keyed_randomness(0, Key(0, key)):
            expected = theirs(IMAGE_CHW).float() / 255
        assert torch.allclose(augmented(key, policy=policy), expected, atol=1e-6)


@pytest.mark.parametrize("policy", ["trivial", "rand", "augmix"])
def test_a_policy_on_six_channels_is_refused(policy):
    six = Preprocess(
        image_size=8, crop_fraction=1.0, interpolation="bilinear", mean=(0.5,) * 6, std=(1.0,) * 6, channels=6
    )
    with pytest.raises(InputError, match=r"try augment\.policy=none"):
        augmented(preprocess=six, policy=policy)


def test_jitter_on_six_channels_is_refused():
    six = Preprocess(
        image_size=8, crop_fraction=1.0, interpolation="bilinear", mean=(0.5,) * 6, std=(1.0,) * 6, channels=6
    )
    with pytest.raises(InputError, match=r"try augment\.jitter=0"):
        augmented(preprocess=six, jitter=0.1)


def test_an_unknown_interpolation():
    odd = Preprocess(image_size=8, crop_fraction=1.0, interpolation="bilinaer", mean=(0.5,), std=(1.0,))
    with pytest.raises(InputError, match="try bilinear"):
        eval_transform(odd)
