"""Thumbnails of selected images, embedded in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from graft.data.pixels import Unreadable, read_pixels
from graft.page.elements import Html, element, image
from graft.report.mistakes import MISTAKES
from graft.results.predictions import Predictions

SIDE = 160  # pixels; the page shows them at 104 to 160 CSS pixels
JPEG = (".jpg", ".jpeg")


def gallery(title: str, predictions: Predictions, rows: Sequence[int], classes: Sequence[str]) -> Html:
    """The images of these rows, with answer and truth. Empty if there are no rows."""
    if not rows:
        return Html("")
    items = [_item(predictions, row, classes) for row in rows]
    return element("div", element("h3", title), element("ul", *items, class_="gallery"), style="margin-top:26px")


def thumbnail(path: Path, side: int = SIDE) -> str | None:
    """A JPEG of at most side × side pixels as a data URI, or None if the file cannot be shown."""
    try:
        picture = _small_jpeg(path, side) if path.suffix.lower() in JPEG else Image.fromarray(read_pixels(str(path), 3))
    except (Unreadable, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _small_jpeg(path: Path, side: int) -> Image.Image:
    """Decodes a large JPEG at a fraction of its size."""
    with Image.open(path, formats=["JPEG", "MPO"]) as image:
        image.draft("RGB", (side, side))
        return ImageOps.exif_transpose(image).convert("RGB")


def _item(predictions: Predictions, row: int, classes: Sequence[str]) -> Html:
    path = Path(predictions.paths[row])
    words = MISTAKES[predictions.task].words(predictions, row, classes)
    picture = thumbnail(path)
    shown = (
        element("div", "not readable now", class_="blank")
        if picture is None
        else image(picture, f"{path.name}: {words.sentence}")
    )
    return element(
        "li",
        shown,
        element("div", element("b", words.answer), element("small", words.truth), element("small", path.name)),
    )
