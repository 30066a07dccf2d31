"""Every kind of image file becomes the right 8-bit pixels, or an error that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.data.images import decode
from graft.data.pixels import Unreadable, check_image, measure, read_pixels

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def luminance(rgb: np.ndarray) -> np.ndarray:
    """ITU-R 601-2, as Pillow computes it."""
    red, green, blue = (rgb[..., place].astype(np.int64) for place in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)


def saved(folder: Path, image: Image.Image, name: str = "image.png", **options: object) -> str:
    image.save(folder / name, **options)
    return str(folder / name)


def test_rgb_as_it_is_and_as_luminance(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB))
    np.testing.assert_array_equal(read_pixels(path, 3), RGB)
    np.testing.assert_array_equal(read_pixels(path, 1)[..., 0], luminance(RGB))


def test_grey_is_replicated(tmp_path):
    path = saved(tmp_path, Image.fromarray(GREY))
    np.testing.assert_array_equal(read_pixels(path, 3), np.stack([GREY] * 3, axis=2))
    np.testing.assert_array_equal(read_pixels(path, 1), GREY[..., None])


def test_transparency_is_dropped_and_kept_only_for_four_channels(tmp_path):
    alpha = np.arange(54, dtype=np.uint8).reshape(6, 9, 1)
    path = saved(tmp_path, Image.fromarray(np.concatenate([RGB, alpha], axis=2)))
    np.testing.assert_array_equal(read_pixels(path, 3), RGB)
    np.testing.assert_array_equal(read_pixels(path, 1)[..., 0], luminance(RGB))
    np.testing.assert_array_equal(read_pixels(path, 4), np.concatenate([RGB, alpha], axis=2))
    grey_alpha = saved(tmp_path, Image.fromarray(np.stack([GREY, alpha[..., 0]], axis=2)), "la.png")
    np.testing.assert_array_equal(read_pixels(grey_alpha, 3), np.stack([GREY] * 3, axis=2))


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path, name):
    deep = np.array([[0, 128, 129, 257], [32767, 32768, 65407, 65535]], dtype=np.uint16)
    path = saved(tmp_path, Image.fromarray(deep), name)
    np.testing.assert_array_equal(read_pixels(path, 1)[..., 0], [[0, 0, 1, 1], [127, 128, 255, 255]])
    assert read_pixels(path, 3).shape == (2, 4, 3)


def test_floating_point_images_have_no_known_range(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.ones((4, 4), dtype=np.float32)), "f.tif")
    with pytest.raises(Unreadable, match="expected 8 or 16 bits a channel, received 32"):
        read_pixels(path, 3)


def test_palettes_are_looked_up_with_and_without_transparency(tmp_path):
    indices = (np.arange(54) % 4).astype(np.uint8).reshape(6, 9)
    palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], dtype=np.uint8)
    image = Image.frombytes("P", (9, 6), indices.tobytes())
    image.putpalette(palette.flatten().tolist())
    np.testing.assert_array_equal(read_pixels(saved(tmp_path, image), 3), palette[indices])
    transparent = saved(tmp_path, image, "t.png", transparency=bytes([0, 128, 255, 255]))
    np.testing.assert_array_equal(read_pixels(transparent, 3), palette[indices])
    np.testing.assert_array_equal(read_pixels(transparent, 1)[..., 0], luminance(palette)[indices])


def test_one_bit_images_are_black_and_white(tmp_path):
    path = saved(tmp_path, Image.fromarray(GREY > 128))
    np.testing.assert_array_equal(read_pixels(path, 1)[..., 0], np.where(GREY > 128, 255, 0))


def test_cmyk_becomes_rgb(tmp_path):
    cyan = Image.frombytes("CMYK", (8, 8), bytes([255, 0, 0, 0]) * 64)
    np.testing.assert_array_equal(read_pixels(saved(tmp_path, cyan, "c.tif"), 3)[0, 0], [0, 255, 255])


@pytest.mark.parametrize(
    ("orientation", "turned"), [(1, RGB), (3, RGB[::-1, ::-1]), (6, np.rot90(RGB, -1)), (2, RGB[:, ::-1])]
)
def test_exif_orientation_is_applied(tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(RGB), "o.png", exif=exif)
    np.testing.assert_array_equal(read_pixels(path, 3), turned)
    assert measure(path) == (*turned.shape[:2], False)


def test_of_an_animation_the_first_frame_counts(tmp_path):
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_pixels(path, 3)[2, 2], [255, 0, 0])


def test_arrays_carry_any_number_of_channels(tmp_path):
    six = np.random.default_rng(1).integers(0, 256, (4, 5, 6), dtype=np.uint8)
    np.save(tmp_path / "six.npy", six)
    path = str(tmp_path / "six.npy")
    np.testing.assert_array_equal(read_pixels(path, 6), six)
    assert measure(path) == (4, 5, False)
    with pytest.raises(Unreadable, match="expected 3 channels"):
        read_pixels(path, 3)
    np.save(tmp_path / "deep.npy", np.array([[0, 65535]], dtype=np.uint16))
    np.testing.assert_array_equal(read_pixels(str(tmp_path / "deep.npy"), 1)[..., 0], [[0, 255]])
    np.save(tmp_path / "float.npy", np.zeros((3, 3)))
    with pytest.raises(Unreadable, match="expected uint8 or uint16"):
        read_pixels(str(tmp_path / "float.npy"), 1)


def test_decode_gives_channels_first(tmp_path):
    image_CHW = decode(saved(tmp_path, Image.fromarray(RGB)), 3)
    np.testing.assert_array_equal(image_CHW.numpy(), RGB.transpose(2, 0, 1))


def test_a_postscript_file_starts_no_other_program(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB), "x.eps")
    with pytest.raises(Unreadable, match="known kind"):
        read_pixels(path, 3)


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(RGB))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(Unreadable, match="decompression bomb"):
        check_image(path, 3, thorough=False)


@pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")  # Pillow's, on a cut TIFF, beside its error
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.gif", "a.tif", "a.webp", "a.ppm", "a.jp2", "a.avif"])
def test_each_kind_whole_passes_and_cut_fails(tmp_path, name):
    path = Path(saved(tmp_path, Image.fromarray(np.repeat(np.repeat(RGB, 8, 0), 8, 1)), name))
    for thorough in (False, True):
        check_image(str(path), 3, thorough=thorough)
    contents = path.read_bytes()
    for keep in (0.95, 0.5, 0.01):
        path.write_bytes(contents[: int(len(contents) * keep)])
        for thorough in (False, True):
            with pytest.raises(Unreadable) as caught:
                check_image(str(path), 3, thorough=thorough)
            assert caught.value.path == str(path)
            assert caught.value.reason


def test_a_jpeg_with_something_after_its_end_is_still_one(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB), "a.jpg")
    with open(path, "ab") as file:
        file.write(b"trailing")
    check_image(path, 3, thorough=False)


def test_a_png_that_lacks_only_its_end_mark_gives_its_pixels_either_way(tmp_path):
    path = Path(saved(tmp_path, Image.fromarray(RGB)))
    path.write_bytes(path.read_bytes()[:-12])
    for thorough in (False, True):
        check_image(str(path), 3, thorough=thorough)
