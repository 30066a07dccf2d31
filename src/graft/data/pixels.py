"""Decodes an image file of any supported format to 8-bit pixels, and checks cheaply whether it can be decoded.

EXIF orientation is applied. Transparency is dropped, as in the donors' training pipelines. 16-bit grey is scaled by
255/65535, and never clipped or stretched to the image's own range. Palettes are resolved, and CMYK becomes RGB. Of an
animation or a multi-page file, the first image is used. `.npy` files have the shape [H, W] or [H, W, C].

A JPEG can be decoded at a half, a quarter or an eighth of its size, with smaller inverse cosine transforms of its
8 × 8 blocks (libjpeg's scaling, Pillow's draft mode). This is close to averaging over 2, 4 or 8 pixels in each
direction, at a fraction of the time and memory. The shorter edge never becomes shorter than `jpeg_edge`.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import tokenize
import zlib
from collections.abc import Callable
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

# Excludes formats whose reader starts another program (EPS) or accepts almost any file (TGA).
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")

ARRAYS: tuple[np.dtype[Any], ...] = (np.dtype(np.uint8), np.dtype(np.uint16))

# The exceptions that Pillow and numpy raise for damaged files.
_DAMAGE = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    struct.error, zlib.error, tokenize.TokenError, RecursionError, MemoryError, Image.DecompressionBombError,
)  # fmt: skip
_END_OF_JPEG = b"\xff\xd9"


class Unreadable(Exception):
    """A file that cannot be decoded, and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} ({self.reason})"


def read_pixels(path: str, channels: int, jpeg_edge: int | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decodes an image file as uint8 [H, W, channels].

    Args:
        channels: 1: luminance (ITU-R 601: 0.299 R + 0.587 G + 0.114 B). 3: RGB; a grey image is repeated. Any other
            number must be that of the file.
        jpeg_edge: a JPEG is reduced as far as its shorter edge keeps at least this length in pixels; None: never.

    Raises:
        Unreadable: the file is missing, empty, damaged, of an unknown format, or has another number of channels.
    """
    try:
        if path.lower().endswith(".npy"):
            return _convert_array(np.array(_array(path)), path, channels)
        return _decode(lambda: path, path, channels, jpeg_edge)
    except _DAMAGE as damage:
        raise _explained(path, damage) from damage


def bytes_pixels(content: bytes, channels: int, jpeg_edge: int | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Like `read_pixels`, for the content of an image file.

    Raises:
        Unreadable: the content is damaged, of an unknown format, or has another number of channels.
    """
    try:
        return _decode(lambda: io.BytesIO(content), "bytes", channels, jpeg_edge)
    except Image.UnidentifiedImageError as error:
        raise Unreadable("bytes", f"not an image of a known kind: {', '.join(FORMATS)}") from error
    except _DAMAGE as damage:
        raise Unreadable("bytes", str(damage) or type(damage).__name__) from damage


def array_pixels(array: np.ndarray[Any, Any], channels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Like `read_pixels`, for an array of uint8 or uint16, [H, W] or [H, W, C].

    Example:
        >>> array_pixels(np.array([[0, 257, 65535]], dtype=np.uint16), 1).ravel().tolist()
        [0, 1, 255]

    Raises:
        Unreadable: the array has another type, shape or number of channels.
    """
    return _convert_array(np.array(array), "array", channels)


def image_pixels(image: Image.Image, channels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Like `read_pixels`, for an open Pillow image.

    Raises:
        Unreadable: the image is damaged or has another number of channels.
    """
    try:
        return _convert(ImageOps.exif_transpose(image), "image", channels)
    except _DAMAGE as damage:
        raise Unreadable("image", str(damage) or type(damage).__name__) from damage


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of the supported formats, with the dot, in lower case."""
    registered = Image.registered_extensions().items()
    return frozenset([".npy", *(suffix for suffix, kind in registered if kind in FORMATS)])


def check_image(path: str, channels: int, *, thorough: bool) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """Checks whether a file can be decoded.

    Args:
        thorough: True: decode the file. False: accept a PNG with valid checksums or a JPEG with its end mark, and
            decode only other files. A JPEG with a damaged middle passes this check and stops the run later.

    Returns:
        The pixels if the file was decoded, else None.

    Raises:
        Unreadable: the file cannot be decoded.
    """
    return read_pixels(path, channels) if thorough or not _looks_whole(path, channels) else None


def measure(path: str, jpeg_edge: int | None = None) -> tuple[int, int, bool]:
    """Height and width in pixels, after EXIF orientation and reduction, and whether the image is grey.

    They are read from the header if possible, without decoding the file.
    """
    try:
        if path.lower().endswith(".npy"):
            array = _array(path)
            return array.shape[0], array.shape[1], array.ndim == 2 or array.shape[2] == 1
        with _open(path, jpeg_edge) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # orientations 5 to 8 swap height and width
            width, height = reversed(image.size) if turned else image.size
            return height, width, image.mode in GREY
    except _DAMAGE as damage:
        raise _explained(path, damage) from damage


def sides(path: str) -> tuple[int, int]:
    """The shorter and the longer side in pixels, from the header alone. EXIF orientation does not affect them."""
    try:
        if path.lower().endswith(".npy"):
            short, long = sorted(_array(path).shape[:2])
        else:
            with _open(path) as image:
                short, long = sorted(image.size)
        return short, long
    except _DAMAGE as damage:
        raise _explained(path, damage) from damage


def _decode(
    source: Callable[[], str | io.BytesIO], name: str, channels: int, jpeg_edge: int | None
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with _open(source(), jpeg_edge) as image:
        try:
            image.load()
        except OSError:  # a lossless JPEG, which has no smaller scales; or a damaged one, which fails again below
            if jpeg_edge is None:
                raise
            return _decode(source, name, channels, None)
        ImageOps.exif_transpose(image, in_place=True)
        return _convert(image, name, channels)


def _array(path: str) -> np.ndarray[Any, Any]:
    """The array on disk. That the file is as long as its header says is checked before any memory is taken."""
    _check_regular(path)
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
        begin, size = file.tell(), file.seek(0, os.SEEK_END)
    _check_array(shape, dtype, path)
    if begin + prod(shape) * dtype.itemsize > size:
        raise Unreadable(path, f"expected the bytes of {dtype} {shape}, received {size - begin}")
    return np.memmap(path, dtype=dtype, mode="r", offset=begin, shape=shape, order="F" if is_fortran else "C")


def _check_array(shape: tuple[int, ...], dtype: np.dtype[Any], path: str) -> None:
    if len(shape) not in (2, 3) or dtype not in ARRAYS or min(shape) <= 0:
        raise Unreadable(path, f"expected uint8 or uint16 [H, W] or [H, W, C], received {dtype} {shape}")


def _check_regular(path: str) -> None:
    """A FIFO would be waited for."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Unreadable(path, "not a file")


def _open(path: str | io.BytesIO, jpeg_edge: int | None = None) -> Image.Image:
    if isinstance(path, str):
        _check_regular(path)
    Image.init()
    image = Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
    if jpeg_edge is not None:
        image.draft(None, (jpeg_edge, jpeg_edge))  # for other formats it does nothing
    return image


def _convert(image: Image.Image, path: str, channels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        image = _eight_bits(image, path)
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")
    if channels in (1, 3):
        if image.mode not in (*GREY, "RGB"):
            image = image.convert("RGB")
        wanted = "L" if channels == 1 else "RGB"
        array = np.array(image if image.mode == wanted else image.convert(wanted))
    else:
        array = np.array(image)
    array = array[..., None] if array.ndim == 2 else array
    if array.shape[2] != channels:
        raise _wrong_channels(path, array.shape[2], channels)
    return array


def _eight_bits(image: Image.Image, path: str) -> Image.Image:
    """Converts 16-bit grey to 8-bit grey."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise Unreadable(path, f"expected 8 or 16 bits a channel, received 32 (Pillow's mode {image.mode})")
    return Image.fromarray(_scale(values))


def _scale(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Scales 0 … 65535 to 0 … 255, rounding to the nearest."""
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _convert_array(array: np.ndarray[Any, Any], path: str, channels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    _check_array(array.shape, array.dtype, path)
    array = _scale(array) if array.dtype == np.uint16 else array
    array = array[..., None] if array.ndim == 2 else array
    if channels in (1, 3) and array.shape[2] in (1, 3):
        return _convert(Image.fromarray(array[..., 0] if array.shape[2] == 1 else array), path, channels)
    if array.shape[2] != channels:
        raise _wrong_channels(path, array.shape[2], channels)
    return array


def _looks_whole(path: str, channels: int) -> bool:
    """Whether header and checksums, or header and end mark, are valid; False if in doubt."""
    try:
        with _open(path) as image:
            if channels not in (1, 3) and len(image.getbands()) != channels:
                return False
            if image.format == "PNG":
                image.verify()
                return True
            if image.format not in ("JPEG", "MPO"):
                return False
        with open(path, "rb") as file:
            file.seek(-2, os.SEEK_END)
            return file.read() == _END_OF_JPEG
    except _DAMAGE:
        return False


def _wrong_channels(path: str, received: int, expected: int) -> Unreadable:
    return Unreadable(path, f"expected {expected} channels (data.channels), received {received}")


def _explained(path: str, damage: BaseException) -> Unreadable:
    file = Path(path)
    if not file.exists():
        return Unreadable(path, "no such file")
    if not file.is_file():
        return Unreadable(path, "not a file")
    if file.stat().st_size == 0:
        return Unreadable(path, "0 bytes")
    if isinstance(damage, Image.UnidentifiedImageError):
        return Unreadable(path, f"not an image of a known kind: {', '.join(FORMATS)}, .npy")
    return Unreadable(path, str(damage) or type(damage).__name__)
