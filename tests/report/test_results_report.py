"""report.html: whatever the run's folder holds, one sound page that stands alone."""

import base64
import hashlib
import io
import math
import re
import time
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from PIL import Image

from graft.config.faults import InputError
from graft.page.elements import bar, breakable, element, text
from graft.page.words import count, duration, measured, percent, span, stretches
from graft.report import write_report
from graft.report.gallery import thumbnail
from graft.report.layout import lead
from graft.report.record import RunRecord, read_run
from graft.system.files import write_json
from tests.run_folder import write_run

VOID = {"meta", "img", "br", "wbr"}


class Page(HTMLParser):
    """Collects what the tests ask about, and fails on tags that are not closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data.strip())

    def of(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]

    @property
    def said(self) -> str:
        return " ".join(word for word in self.words if word)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("run"))
    begun = time.process_time()
    path = write_report(folder)
    assert time.process_time() - begun < 6  # 1 to 2 s of processor time, matplotlib's import included
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_it_stands_alone(page, source):
    assert not page.of("link", "iframe")
    assert page.of("script") == [{}]  # our own, which the policy knows by its hash
    policy = next(meta["content"] for meta in page.of("meta") if meta.get("http-equiv"))
    script = source[source.index("<script>") + len("<script>") : source.index("</script>")]
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("script-src ")[1] == f"'sha256-{known}'"
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in page.of("img"))
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", source)
    assert "@import" not in source
    assert not re.search(r"url\((?!#)", source)


def test_it_is_accessible(page):
    headings = [tag for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings.count("h1") == 1
    assert headings[0] == "h1"
    levels = [int(tag[1]) for tag in headings]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.of("html") == [{"lang": "en"}]
    assert len(page.of("main")) == 1
    assert all(image.get("alt") for image in page.of("img"))
    assert page.of("img")
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in page.of("svg"))
    assert len(page.of("svg")) >= 5
    assert len(page.of("caption")) == len(page.of("table"))
    assert all(header.get("scope") for header in page.of("th"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_drawings_point_at_what_is_there(page, source):
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    pointed = set(re.findall(r"(?:url\(#|xlink:href=\"#)([^\")]+)", source))
    assert pointed
    assert pointed <= ids
    assert "#010101" not in source  # a colour of the drawing that the page does not know
    assert not re.search(r"(?:stroke|fill): #(?!ffffff)", source)


def test_it_says_what_the_files_say(page):
    for expected in (
        "resnet18 on folder", "90.0 % of the parameters come from donor.pth.", "3 epochs in 1 min 15 s.", "verified",
        "unmoved", "25.0 %", "1 unreadable file left out.", "torn.jpg", "container state_dict",
        "conv1.weight", "new head", "the donor's head", "Dotted: epoch 2", "after 1.5 epochs: stem", "val (40 images)",
        "The first step began 7.2 s after the command.", "Where the training epochs' time went", "62.5 %", "37.5 %",
    ):  # fmt: skip
        assert expected in page.said, expected
    assert page.of("summary")
    assert page.of("details")


def test_names_are_text_and_never_markup(source):
    assert "<b>bad" not in source
    assert "&lt;b&gt;bad&lt;/b&gt;" in source


def test_headline_figures_are_those_of_the_predictions(page, tmp_path):
    folder = write_run(tmp_path)
    said = read_run(folder).predictions["test"]
    value = (said.answers_NK.argmax(1) == said.truth).mean()
    assert f"test accuracy {value:.3f} 95 % interval" in page.said


def test_a_bare_folder_still_gives_a_page(tmp_path):
    write_json(tmp_path / "metrics.json", {"val/accuracy": 0.75})
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "val accuracy 0.750" in page.said
    assert not page.of("svg")


def test_pictures_that_are_gone_are_said_to_be(tmp_path):
    page = Page(write_report(write_run(tmp_path, pictures=False)).read_text(encoding="utf-8"))
    assert not page.of("img")
    assert "not readable now" in page.said


def test_a_thumbnail_stands_as_the_network_saw_it_and_a_file_that_is_none_has_no_thumbnail(tmp_path, monkeypatch):
    picture = Image.new("RGB", (40, 20), "white")
    picture.paste("black", (0, 0, 20, 20))
    turned = picture.getexif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=turned, quality=95)
    data = thumbnail(tmp_path / "turned.jpg")
    assert data is not None
    with Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))) as shown:
        assert shown.size == (20, 40)
        assert (shown.getpixel((10, 5))[0] < 60, shown.getpixel((10, 35))[0] > 200) == (True, True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # a file of more than twice as many is refused
    assert thumbnail(tmp_path / "turned.jpg") is None


def test_many_classes_are_drawn_rather_than_listed(tmp_path):
    classes = [f"class {k}" for k in range(30)]
    page = Page(write_report(write_run(tmp_path, classes=classes, pictures=False)).read_text(encoding="utf-8"))
    assert any("30 classes" in str(svg["aria-label"]) for svg in page.of("svg"))
    assert "Most confused pairs" in page.said


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_no_run_s_folder(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected a run's folder"):
        write_report(tmp_path / name)


def test_a_damaged_file_is_named(tmp_path):
    write_json(tmp_path / "metrics.json", {})
    (tmp_path / "transfer.json").write_text("{")
    with pytest.raises(InputError, match=r"transfer\.json"):
        write_report(tmp_path)


def test_text_is_escaped_and_elements_are_not():
    assert text("a < b") == "a &lt; b"
    assert element("p", element("b", "x"), " & y", class_='"') == '<p class="&quot;"><b>x</b> &amp; y</p>'


def test_words():
    assert [duration(s) for s in (0.25, 4.26, 59.4, 75, 7800)] == [
        "0.25 s",
        "4.3 s",
        "59 s",
        "1 min 15 s",
        "2 h 10 min",
    ]
    assert [percent(p) for p in (0, 1, 0.5, 0.99991, 0.0001)] == ["0 %", "100 %", "50.0 %", "99.991 %", "0.010 %"]
    assert (count(1, "class"), count(1200, "class")) == ("1 class", "1,200 classes")
    assert [measured(value) for value in (0.9124, 12.5, 0, 0.0123, 0.00042, -0.00042)] == [
        "0.912",
        "12.500",
        "0.000",
        "0.012",
        "0.00042",
        "-0.00042",
    ]
    assert (measured(0.00042, 4), measured(0.5, sign="+"), measured(float("nan"))) == ("0.00042", "+0.500", "undefined")
    assert (span(0.00012, 0.25, "Wilson"), span(float("nan"), 1, "")) == ("0.00012 to 0.250 (Wilson)", "no interval")
    order = ["stem", "layer1", "layer2", "layer3", "head"]
    assert stretches({"layer1", "stem", "layer2"}, order) == "stem to layer2"
    assert stretches({"layer2", "stem", "head"}, order) == "stem, layer2, head"
    assert (stretches({"layer3", "head"}, order), stretches(set(), order)) == ("layer3, head", "nothing")


def test_a_long_name_may_break_behind_its_dots_and_nowhere_else():
    assert breakable("blocks.3.<w>") == "blocks.<wbr>3.<wbr>&lt;w&gt;"


def test_nothing_is_underlined_where_the_share_is_nothing():
    assert bar(0, "unmoved") == "<td>unmoved</td>"
    assert bar(math.nan, "–", sort=math.nan) == '<td data-sort="">–</td>'
    assert bar(0.5, "5 s").startswith('<td class="bar" style="--share:50.0%"')


def test_the_best_epoch_is_one_whose_figure_is_known(tmp_path):
    folder = write_run(tmp_path, pictures=False)
    table = "epoch,val/loss,val/accuracy\n1,nan,nan\n2,0.5,nan\n3,0.75,nan\n"
    (folder / "metrics.csv").write_text(table)
    said = Page(write_report(folder).read_text(encoding="utf-8")).said
    assert "val/loss was best at epoch 2: 0.500." in said
    assert "val/accuracy is undefined in every epoch." in said


def test_the_timeline_says_each_phases_factor_and_the_warm_up(source):
    said = Page(source).said
    assert "Frozen at first: stem, layer1; after 1.5 epochs: stem." in said
    assert "Every learning rate: at first ×1; after 1.5 epochs ×0.1." in said
    assert "Pale: what has thawed comes to its learning rate, in 0.5 epochs." in said
    assert "lr/" not in said
    assert {"layer1", "layer2", "head"} <= set(said.split())


def test_the_report_names_the_precision_and_the_way_of_training_and_of_figures(tmp_path):
    folded, halved = "folded, float32", "folded, bfloat16"
    metrics = {
        "precision": {"train": "bf16-mixed", "evaluation": "32-true"},
        "features": {"layer4": {"train": folded, "evaluation": folded}},
        "prefix": {"layer2": {"train": halved, "evaluation": folded}, "layer1": {"train": halved}},
    }
    told = str(lead(RunRecord(folder=tmp_path, metrics=metrics)))
    assert "Trained in bf16-mixed; figures and predictions are of the exported network, in float32." in told
    assert "Features after layer4 were computed once: folded, float32." in told
    assert "Frozen stages to layer2 ran: folded, bfloat16 for training; folded, float32 for evaluation." in told
    assert "Frozen stages to layer1 ran: folded, bfloat16 for training." in told
    assert "Trained in" not in str(lead(RunRecord(folder=tmp_path)))
