"""The pages in a real browser: nothing fails, every figure is drawn, tables sort, all can be read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from graft.page import figures
from graft.report import write_comparison, write_page, write_report
from tests.run_folder import write_run

pytestmark = pytest.mark.chromium

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
CONTRAST = """
() => {
  const channels = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = (rgb) => {
    const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = rgb.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const rgba = channels(getComputedStyle(at).backgroundColor);
      if (rgba.length === 3 || rgba[3] === 1) return rgba;
    }
    return [255, 255, 255];
  };
  const found = [];
  const texts = "h1, h2, h3, p, dt, dd, th, figcaption, caption, summary, small, code, svg text";
  for (const node of document.querySelectorAll(texts)) {
    const style = getComputedStyle(node);
    const [one, other] = [light(channels(node.closest("svg") ? style.fill : style.color)), light(behind(node))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    found.push([ratio, node.tagName, node.textContent.slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}
"""
DRAWN = """
() => [...document.querySelectorAll("svg")].map((svg) => {
  const frame = svg.getBoundingClientRect();
  const parts = [...svg.querySelectorAll("path, use, image, text")].map((part) => part.getBoundingClientRect());
  return {
    label: svg.getAttribute("aria-label"),
    width: frame.width,
    height: frame.height,
    parts: parts.filter((part) => part.width + part.height > 0).length,
    outside: [...svg.querySelectorAll("text")].filter((text) => {
      const box = text.getBoundingClientRect();
      const beside = box.left < frame.left - 2 || box.right > frame.right + 2;
      return beside || box.top < frame.top - 2 || box.bottom > frame.bottom + 2;
    }).map((text) => text.textContent),
  };
})
"""


@dataclass(slots=True)
class Opened:
    page: Page
    said: list[str] = field(default_factory=list)
    """The console's lines and uncaught errors."""
    asked: list[str] = field(default_factory=list)
    """Addresses that were asked for, the page's own and data: left out."""


Opens = Callable[..., Opened]


def awkward_drawings() -> Iterator[str]:
    """Small rates, long names, many lines, slanted words, powers of ten."""
    epochs = [float(epoch) for epoch in range(1, 31)]
    names = [f"features.denseblock{k}.denselayer{k}" for k in range(7)]
    yield figures.curves([("head", epochs, [1e-7 / epoch for epoch in epochs])], "Small", y="learning rate")
    yield figures.curves(
        [(name, epochs, [k / epoch for epoch in epochs]) for k, name in enumerate(names)], "Many", y="loss"
    )
    yield figures.curves([("loss", epochs, [123456.7 * epoch for epoch in epochs])], "Large", y="loss")
    yield figures.timeline(names, [(0, 10, frozenset(names)), (10, 30, frozenset(names[:2]))], "Long", ramp=2)
    yield figures.points(
        ["adamw", "a word too long to be shown", "sgd"], [0.1, 0.2, 0.3], "Words", x="name", y="val/loss"
    )
    yield figures.points([1e-5, 1e-3, 0.1], [0.1, 0.2, 0.3], "Powers", x="optimizer.lr", y="val/loss", best=1)
    yield figures.points([k * 1e-6 for k in range(1, 12)], [k / 7e5 for k in range(11)], "Scale", x="lr", y="val/loss")
    figure, axes = figures.blank_axes("", "")
    axes.plot(range(3), range(3))
    axes.set_xticks(range(3), [f"optimizer.weight_decay_{k}" for k in range(3)], rotation=20, ha="right")
    axes.set_yticks([0, 1], ["lowest", "highest"])
    yield figures.render(figure, "Slanted")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with controls, a comparison of seven, and drawings with more around them than a run's."""
    folder = tmp_path_factory.mktemp("pages")
    for k in range(7):
        write_run(
            folder / f"run{k}",
            where=folder,
            hits=0.5 + 0.05 * k,
            metrics={"val/loss": 1 - 0.1 * k, "test/accuracy": [0.61, 0.9, 0.75, 0.5, 0.88, 0.7, 0.8][k]},
            settings={"seed": k % 2, "optimizer": {"lr": 10.0**-k, "name": "sgd" if k % 2 else "adamw"}},
        )
    write_run(folder / "run0" / "controls" / "random_init", where=folder, hits=0.2)
    return {
        "drawings": write_page(folder / "drawings.html", f"<html><body>{''.join(awkward_drawings())}</body></html>"),
        "run": write_report(folder / "run0"),
        "comparison": write_comparison([folder / f"run{k}" for k in range(7)]),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "expected Chromium on this machine, found none; try apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, pages: dict[str, Path]) -> Iterator[Opens]:
    contexts = []

    def opens(name: str, width: int = 1200, scheme: str = "light") -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        opened = Opened(context.new_page())
        address = pages[name].as_uri()
        opened.page.on("console", lambda message: opened.said.append(message.text))
        opened.page.on("pageerror", lambda error: opened.said.append(str(error)))
        opened.page.on(
            "request",
            lambda request: None if request.url.startswith(("data:", address)) else opened.asked.append(request.url),
        )
        opened.page.goto(address)
        return opened

    yield opens
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", ["run", "comparison", "drawings"])
def test_every_figure_is_drawn_and_nothing_fails(open_page: Opens, name: str):
    opened = open_page(name)
    drawn = opened.page.evaluate(DRAWN)
    assert len(drawn) >= 5
    for svg in drawn:
        assert svg["width"] > 200, svg
        assert svg["height"] > 80, svg
        assert svg["parts"] > 8, svg
        assert svg["outside"] == [], svg
    sides = opened.page.evaluate("() => [...document.images].map((image) => image.naturalWidth)")
    assert all(sides)
    assert bool(sides) is (name == "run")
    assert opened.said == []
    assert opened.asked == []


def test_a_click_on_a_column_sorts_by_it_and_another_turns_it(open_page: Opens):
    opened = open_page("comparison")
    column = opened.page.locator("table.sortable thead th", has_text="test accuracy")
    place = column.evaluate("head => head.cellIndex")
    cells = f"table.sortable tbody tr > :nth-child({place + 1})"
    given = opened.page.locator(cells).all_inner_texts()
    column.get_by_role("button").click()
    assert opened.page.locator(cells).all_inner_texts() == sorted(given, key=float) != given
    assert column.get_attribute("aria-sort") == "ascending"
    column.get_by_role("button").press("Enter")
    assert opened.page.locator(cells).all_inner_texts() == sorted(given, key=float, reverse=True)
    assert column.get_attribute("aria-sort") == "descending"
    opened.page.locator("table.sortable thead th", has_text="optimizer.name").get_by_role("button").click()
    assert column.get_attribute("aria-sort") is None
    names = opened.page.locator("table.sortable tbody tr > :nth-child(4)").all_inner_texts()
    assert names == ["adamw"] * 4 + ["sgd"] * 3
    assert opened.said == []


def test_the_ledger_opens_to_every_tensor(open_page: Opens):
    page = open_page("run").page
    listed = page.locator("details", has_text="Every tensor (2)")
    assert not listed.locator("table").is_visible()
    listed.locator("summary").click()
    assert listed.locator("tbody tr").all_inner_texts()[0].split("\t") == [
        "stem.weight", "copied", "4×3", "", "conv1.weight", "renamed",
    ]  # fmt: skip
    listed.locator("summary").click()
    assert not listed.locator("table").is_visible()


@pytest.mark.parametrize("name", ["run", "comparison"])
def test_nothing_is_wider_than_a_phone(open_page: Opens, name: str):
    page = open_page(name, width=390).page
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
    smallest = page.evaluate(
        "() => Math.min(...[...document.querySelectorAll('svg text')].map((text) => {"
        "const at = text.getScreenCTM();"
        "return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(at.a, at.b);}))"
    )
    assert smallest > 8.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["run", "comparison"])
def test_every_text_stands_out_from_what_is_behind_it(open_page: Opens, name: str, scheme: str):
    page = open_page(name, scheme=scheme).page
    assert (
        page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        == {
            "light": "rgb(247, 247, 244)",
            "dark": "rgb(19, 22, 20)",
        }[scheme]
    )
    found = page.evaluate(CONTRAST)
    assert len(found) > 100
    assert found[0][0] >= 4.5, found[:5]  # WCAG 2.2, level AA


def test_on_paper_nothing_is_cut_off(open_page: Opens):
    page = open_page("run", scheme="dark").page
    page.emulate_media(media="print")
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    cut = page.evaluate(
        "() => [...document.querySelectorAll('.tall, .scroll')]"
        ".filter((box) => box.scrollHeight > box.clientHeight + 1).length"
    )
    assert cut == 0
    side_by_side = page.evaluate(
        "() => [...document.querySelectorAll('.pair')].filter((pair) => pair.children.length > 1).map((pair) =>"
        "[...pair.children].slice(0, 2).map((part) => part.getBoundingClientRect().width))"
    )
    assert side_by_side
    assert all(one == pytest.approx(other, abs=1) for one, other in side_by_side)
    assert page.pdf().startswith(b"%PDF")
