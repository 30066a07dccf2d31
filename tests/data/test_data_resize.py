"""How an image that is not square becomes the network's input: cropped, squashed, or within borders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import graft
from benchmarks.composed import composed
from graft.config.choices import Resize
from graft.config.faults import InputError
from graft.data.images import decode
from graft.data.table import Sample
from graft.data.transforms import eval_transform
from graft.inference.classify import predict
from graft.models.preprocess import Preprocess
from graft.pipeline.run import run
from graft.plan.geometry import cropped_share

PREPROCESS = Preprocess(
    image_size=40, crop_fraction=1.0, interpolation="bilinear", mean=(0.2, 0.4, 0.6), std=(1.0,) * 3
)


def banded(width: int = 80, height: int = 40) -> torch.Tensor:
    """A grey image [3, H, W] whose left quarter is black and whose right quarter is white."""
    image = torch.full((3, height, width), 128, dtype=torch.uint8)
    image[:, :, : width // 4], image[:, :, -width // 4 :] = 0, 255
    return image


def levels(image: torch.Tensor, resize: str) -> torch.Tensor:
    """The network's input, back in grey levels."""
    out = eval_transform(replace(PREPROCESS, resize=resize))(image)
    return (out + torch.tensor(PREPROCESS.mean)[:, None, None]) * 255


def test_a_crop_loses_both_sides() -> None:
    assert levels(banded(), "crop").round().unique().tolist() == [128]


def test_squash_keeps_them_and_changes_the_proportions() -> None:
    received = levels(banded(), "squash")
    assert torch.allclose(received[:, :, [0, 20, 39]], torch.tensor([0.0, 128, 255]).expand(3, 40, 3), atol=1e-3)
    expected = v2.functional.resize(banded(), [40, 40], antialias=True)
    assert torch.allclose(received, expected.float(), atol=1e-3)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("resize", ["letterbox", "pad"])
def test_borders_keep_the_image_and_its_proportions(resize: str, turned: bool) -> None:
    image = banded()
    received = levels(image.transpose(1, 2) if turned else image, resize)
    received = received.transpose(1, 2) if turned else received
    inner = v2.functional.resize(image, [20, 40], antialias=True).float()
    assert torch.allclose(received[:, 10:30], inner, atol=1e-3)
    if resize == "letterbox":
        border = torch.tensor([51.0, 102, 153])[:, None, None]
        assert torch.allclose(received[:, [0, 9, 30, 39]], border.expand(3, 4, 40), atol=1e-3)
    else:
        assert torch.allclose(received[:, 0], inner[:, 0], atol=1e-3)
        assert torch.allclose(received[:, 39], inner[:, -1], atol=1e-3)


@pytest.mark.parametrize("resize", ["crop", "squash", "letterbox", "pad"])
def test_a_square_image_is_the_same_for_all(resize: str) -> None:
    image = torch.randint(256, (3, 60, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert levels(image, resize).equal(levels(image, "crop"))


def test_the_share_that_a_crop_leaves_out(tmp_path: Path) -> None:
    samples = []
    for name, size in (("wide", (80, 40)), ("square", (40, 40))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
        samples.append(Sample(str(tmp_path / f"{name}.png"), 0, None))
    assert cropped_share(samples, PREPROCESS) == pytest.approx(0.25)
    assert cropped_share(samples, replace(PREPROCESS, crop_fraction=0.5)) == pytest.approx((0.875 + 0.75) / 2)
    assert cropped_share(samples, replace(PREPROCESS, resize="squash")) == 0.0
    assert cropped_share([Sample(str(tmp_path / "none.png"), 0, None)], PREPROCESS) is None


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 96 × 48 pixels whose classes differ at the left edge alone, which a centre crop leaves out."""
    place, rng = tmp_path_factory.mktemp("wide"), np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 6)):
        for name, level in (("dark", 0), ("light", 255)):
            (place / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(100, 150, (48, 96, 3), dtype=np.uint8)
                pixels[:, :20] = level
                Image.fromarray(pixels).save(place / part / name / f"{number}.png")
    return place


def words(wide: Path, *more: str) -> list[str]:
    return [
        "backbone=timm", "backbone.name=test_efficientnet", "donor=none", "freeze=none", "data=folder",
        f"data.root={wide}", "data.image_size=32", "data.num_workers=0", "trainer.accelerator=cpu",
        "trainer.progress=false", "trainer.max_epochs=1", *more,
    ]  # fmt: skip


def test_training_and_prediction_see_the_whole_image(
    wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(wide, "data.resize=letterbox", "cache=images", f"cache.dir={tmp_path / 'cache'}")
    run(composed(*given), tmp_path / "run", given)
    assert "data.resize=letterbox: the whole of each image" in capsys.readouterr().out
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert (plan["preprocess"]["resize"], plan["preprocess"]["crop_fraction"], plan["cropped"]) == ("letterbox", 1, 0)
    model = graft.load(tmp_path / "run")
    file = wide / "val" / "dark" / "0.png"
    image = model.preprocess(file)
    assert image.equal(eval_transform(model.preprocess.settings)(decode(str(file), 3)))
    dark, light = (model.preprocess(wide / "val" / name / "0.png") for name in ("dark", "light"))
    assert (dark[:, 16, 2] - light[:, 16, 2]).abs().min() > 2
    with pytest.raises(InputError, match="--tta: expected none or flips"):
        predict(tmp_path / "run", [str(file)], tta="crops")
    again = words(wide, "cache=none", "data.resize=letterbox")
    run(composed(*again), tmp_path / "again", again)
    first, second = (tmp_path / name / "model" / "model.safetensors" for name in ("run", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_a_plan_says_what_the_crop_leaves_out(wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = words(wide, "mode=plan", "data.crop_fraction=1")
    run(composed(*given), tmp_path / "run", given)
    assert "the centre crop leaves out 50% of the pixels; data.resize=squash" in capsys.readouterr().out


def test_a_crop_fraction_has_no_effect_on_whole_images() -> None:
    with pytest.raises(InputError, match=r"data\.crop_fraction: expected 1 with data\.resize=squash"):
        composed("data=folder", "data.root=photos", "data.resize=squash", "data.crop_fraction=0.9")


def test_a_preset_that_keeps_the_whole_image_goes_with_every_resize(wide: Path) -> None:
    given = composed(*words(wide, "data.resize=squash", "data.crop_fraction=1.0"))
    assert (given.data.resize, given.data.crop_fraction) == (Resize.squash, 1.0)
