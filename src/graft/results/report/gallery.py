"""Images worth a look, as thumbnails inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from graft.data.pixels import Unreadable, read_pixels
from graft.results.predictions import Predictions
from graft.results.report.page import Html, element, image

MOST = 12
SIDE = 160  # pixels; shown at 104 to 160 points
JPEG = (".jpg", ".jpeg")


def mistakes(said: Predictions) -> list[int]:
    """Rows whose likeliest class is wrong, the most confident first."""
    confidence_N = said.probabilities_NK.max(1)
    wrong = np.flatnonzero(said.probabilities_NK.argmax(1) != said.targets_N)
    return wrong[np.argsort(-confidence_N[wrong], kind="stable")][:MOST].tolist()


def uncertain(said: Predictions) -> list[int]:
    """Rows whose two likeliest classes are nearest to each other."""
    if said.probabilities_NK.shape[1] < 2:
        return []
    ordered_NK = np.sort(said.probabilities_NK, axis=1)
    return np.argsort(ordered_NK[:, -1] - ordered_NK[:, -2], kind="stable")[:MOST].tolist()


def gallery(title: str, said: Predictions, rows: Sequence[int], classes: Sequence[str]) -> Html:
    if not rows:
        return Html("")
    items = [_item(said, row, classes) for row in rows]
    return element("div", element("h3", title), element("ul", *items, class_="gallery"), style="margin-top:26px")


def thumbnail(path: Path, side: int = SIDE) -> str | None:
    """A small JPEG as a data URI, or None where the file gives no picture that can be shown."""
    try:
        picture = _small_jpeg(path, side) if path.suffix.lower() in JPEG else Image.fromarray(read_pixels(str(path), 3))
    except (Unreadable, OSError, ValueError):
        return None
    picture.thumbnail((side, side))
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode("ascii")


def _small_jpeg(path: Path, side: int) -> Image.Image:
    """Decodes a large JPEG at a fraction of its size."""
    with Image.open(path, formats=["JPEG", "MPO"]) as image:
        image.draft("RGB", (side, side))
        return image.convert("RGB")


def _item(said: Predictions, row: int, classes: Sequence[str]) -> Html:
    path = said.paths[row]
    probabilities = said.probabilities_NK[row]
    true, best = int(said.targets_N[row]), int(probabilities.argmax())
    picture = thumbnail(Path(path))
    name = Path(path).name
    told = f"{name}: labelled {classes[true]}, predicted {classes[best]}"
    shown = element("div", "not readable now", class_="blank") if picture is None else image(picture, told)
    verdict = f"labelled {classes[true]} {probabilities[true]:.2f}" if true != best else "right"
    words = element(
        "div",
        element("b", f"{classes[best]} {probabilities[best]:.2f}"),
        element("small", verdict),
        element("small", name),
    )
    return element("li", shown, words)
