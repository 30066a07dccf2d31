"""The elements of a page. Text is escaped; HTML is marked by its type."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence

from graft.page.script import HASH, SCRIPT
from graft.page.style import CSS

# Nothing is fetched, and no script runs but our own.
POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{HASH}'"


class Html(str):
    """Text that is already HTML and is not escaped."""

    __slots__ = ()


def text(value: object) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def element(name: str, *children: object, **attributes: object) -> Html:
    """`<name …>children</name>`; `class_` is class, and underscores in attributes are hyphens. None leaves one out."""
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{text}>{join(children)}</{name}>")


def join(parts: Iterable[object]) -> Html:
    return Html("".join(text(part) for part in parts))


def breakable(name: str) -> Html:
    """A tensor's or file's name, with possible line breaks after dots and slashes."""
    return Html(re.sub(r"(?<=[./])(?=.)", "<wbr>", html.escape(name)))


def image(source: str, alt: str) -> Html:
    return Html(f'<img src="{html.escape(source)}" alt="{html.escape(alt)}" decoding="async">')


def section(title: str, *children: object) -> Html:
    """An h2 with its contents; empty if there are no contents."""
    body = join(children)
    if not body:
        return Html("")
    name = "-".join("".join(c if c.isalnum() else " " for c in title).lower().split())
    return element("section", element("h2", title, id=name), body, aria_labelledby=name)


def figure(title: str, svg: str, caption: object = "") -> Html:
    """A plot under an h3. `svg` is not escaped, because graft itself draws it."""
    return element("figure", element("h3", title), Html(svg), element("figcaption", caption) if caption else "")


def table(
    headers: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    caption: str,
    numbers: bool = True,
    sortable: bool = False,
) -> Html:
    """A table that scrolls if it is too wide. The first cell of each row is its header.

    Args:
        caption: shown above the table, and read by screen readers.
        numbers: align all columns except the first to the right.
        sortable: a click on a column's name sorts by it, if scripts are enabled.
    """
    head = element("tr", *(element("th", header, scope="col") for header in headers))
    body = [
        element(
            "tr", element("th", first, scope="row"), *(cell if _is_cell(cell) else element("td", cell) for cell in rest)
        )
        for first, *rest in rows
    ]
    parts = (element("caption", caption), element("thead", head), element("tbody", *body))
    inner = element("table", *parts, class_="sortable" if sortable else None)
    kind = "scroll numbers" if numbers else "scroll"
    return element("div", inner, class_=kind, tabindex="0", role="region", aria_label=caption)


def cell(
    value: object, *, style: str | None = None, class_: str | None = None, sort: str | float | None = None
) -> Html:
    """A table cell. `sort` is its sort key if that is not its text; NaN sorts like an empty cell."""
    if isinstance(sort, float) and math.isnan(sort):
        sort = ""
    return element("td", value, style=style, class_=class_, data_sort=sort)


def bar(share: float, value: object, *, sort: float | None = None) -> Html:
    """A number above a bar that shows its share (0 to 1)."""
    if not share > 0:
        return cell(value, sort=sort)
    width = f"{100 * min(share, 1.0):.1f}%"
    return element("td", element("span", value), class_="bar", style=f"--share:{width}", data_sort=sort)


def share(value: float) -> Html:
    """A value from 0 to 1 with its bar; a dash if it could not be computed."""
    return cell("–") if math.isnan(value) else bar(value, f"{value:.3f}")


def details(summary: object, *children: object, open_: bool = False) -> Html:
    inner = join((element("summary", summary), *children))
    return Html(f"<details{' open' if open_ else ''}>{inner}</details>")


def tile(name: str, value: object, note: object = "", *, mark: str | None = None) -> Html:
    """One headline metric."""
    return element(
        "div",
        element("dt", name),
        element("dd", element("strong", value), element("span", note, class_="note") if note else ""),
        class_=f"tile {mark}" if mark else "tile",
    )


def document(title: str, lead: object, *children: object) -> str:
    """The whole HTML file, with one h1 and one script. It loads nothing from elsewhere."""
    head = join((
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        element("title", title),
        Html(f"<style>{CSS}</style>"),
    ))  # fmt: skip
    body = element("main", element("header", element("h1", title), lead), *children)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}<script>{SCRIPT}</script></body></html>\n'


def _is_cell(value: object) -> bool:
    return isinstance(value, Html) and value.startswith("<td")
