"""Whether the difference of two runs on the same images could be chance."""

from __future__ import annotations

from collections.abc import Sequence

from graft.page.elements import Html, element, section
from graft.page.words import span
from graft.report.record import RunRecord
from graft.results.paired import Paired, compare

NOTE = (
    "The difference is taken on the same images, image by image. McNemar's exact test asks whether, of the images that "
    "one run alone has right, either run has too many. It tells what other images like these might give, not what "
    "another seed might."
)


def comparisons(records: Sequence[RunRecord]) -> list[Paired]:
    """The comparisons of two runs on every part in which both have the same images; the judged part comes first."""
    if len(records) != 2:
        return []
    first, second = records
    parts = [part for part in ("test", "val") if part in first.predictions and part in second.predictions]
    pairs = (compare(first.predictions[part], second.predictions[part]) for part in parts)
    return [pair for pair in pairs if pair is not None]


def paired(records: Sequence[RunRecord], names: Sequence[str]) -> Html:
    """One sentence per part."""
    pairs = comparisons(records)
    if not pairs:
        return Html("")
    lines = [element("p", f"{pair.sentence((names[0], names[1]))} {_bootstrap(pair)}") for pair in pairs]
    return section("Could the difference be chance?", *lines, element("p", NOTE, class_="muted"))


def _bootstrap(pair: Paired) -> str:
    interval = pair.bootstrap
    return f"Resampling the images: {span(interval.low, interval.high, interval.method)}."
