"""The comparison of runs: what differs, which is best on val, whether the transfer helped."""

from types import SimpleNamespace

import numpy as np
import pytest

from graft.commands.report import run as report_command
from graft.config.faults import InputError
from graft.config.figures import headline
from graft.report import write_comparison
from graft.report.compare import _word
from graft.report.helped import difference, sentence
from graft.report.record import RunRecord, read_run
from graft.report.run_settings import best, differing, monitored, settings_of
from graft.results.predictions import Predictions, in_order_of
from graft.results.resampling import bootstrap, paired_difference
from tests.report.test_results_report import Page
from tests.run_folder import write_run

CHECKPOINT = {"monitor": "val/loss", "direction": "min"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Four runs: two rates, two seeds; the best on val is not the best on test."""
    folder = tmp_path_factory.mktemp("sweep")
    for k, (rate, seed, loss, test) in enumerate([(0.1, 0, 0.5, 0.6), (0.1, 1, 0.4, 0.7), (0.001, 0, 0.6, 0.95)]):
        write_run(
            folder / str(k),
            pictures=False,
            where=folder,
            metrics={"val/loss": loss, "test/accuracy": test},
            settings={"seed": seed, "optimizer": {"lr": rate}, "trainer": {"threads": k}, "checkpoint": CHECKPOINT},
        )
    return [folder / str(k) for k in range(3)]


@pytest.fixture(scope="module")
def page(runs):
    path = write_comparison(runs)
    assert path == runs[0].parent / "comparison.html"
    return Page(path.read_text(encoding="utf-8"))


def test_the_best_is_chosen_on_val_and_its_command_told(page):
    assert "best run 1 val loss 0.400" in page.said
    assert "with seed=1, optimizer.lr=0.1" in page.said
    assert "python train.py seed=0" in page.said


def test_every_run_has_its_row_and_every_setting_its_figure(page):
    headers = page.said[page.said.index("click a column") :]
    assert "run seed optimizer. lr val loss val accuracy test accuracy test macro-F1 test AUROC" in headers
    assert "trainer.threads" not in page.said  # a circumstance
    labels = [str(svg["aria-label"]) for svg in page.of("svg")]
    assert any(label.startswith("val/loss over optimizer.lr, 3 runs from 0.400 to 0.600") for label in labels)
    assert any(label.startswith("val/accuracy of 3 runs over the epochs") for label in labels)
    assert [table for table in page.of("table") if table.get("class") == "sortable"]
    assert len(page.of("caption")) == len(page.of("table"))


def test_runs_that_differ_in_seed_alone_are_put_together(page):
    assert "0, 1 0.7000 ± 0.0000 0.6500 ± 0.0707" in page.said


def test_an_unfinished_run_is_named_and_never_best(runs, tmp_path):
    unfinished = tmp_path / "unfinished"
    write_run(unfinished, pictures=False)
    (unfinished / "metrics.json").unlink()
    said = Page(write_comparison([*runs, unfinished], tmp_path / "out" / "c.html").read_text(encoding="utf-8")).said
    assert "1 did not finish: " in said
    assert "Not all runs have the same images in test" in said  # this one has paths of its own


def test_one_run_twice_is_refused(runs):
    with pytest.raises(InputError, match="each run once"):
        write_comparison([runs[0], f"{runs[0]}/../{runs[0].name}"])


def test_the_command_writes_one_or_compares_many(runs, tmp_path, capsys):
    report_command(SimpleNamespace(folders=[str(runs[0])], out=str(tmp_path / "one.html")))
    report_command(SimpleNamespace(folders=[str(run) for run in runs], out=str(tmp_path / "many.html")))
    assert capsys.readouterr().out.split() == [str(tmp_path / "one.html"), str(tmp_path / "many.html")]
    assert "<h1>3 runs on folder</h1>" in (tmp_path / "many.html").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="received the folder"):
        report_command(SimpleNamespace(folders=[str(runs[0])], out=str(tmp_path)))


def test_settings_that_differ(runs):
    first, second, third = (settings_of(read_run(run)) for run in runs)
    assert first["optimizer.lr"] == 0.1
    assert differing([first, second]) == ["seed"]
    assert differing([first, second, third]) == ["seed", "optimizer.lr"]
    assert monitored([first, second]) == ("val/loss", "min")
    assert monitored([first, {**second, "checkpoint.monitor": "val/f1"}]) == ("val/accuracy", "max")


def test_best_of_records(tmp_path):
    records = [RunRecord(folder=tmp_path, metrics=metrics) for metrics in ({}, {"a": 1.0}, {"a": 3.0}, {"a": 3.0})]
    assert best(records, "a", "max") == 2
    assert best(records, "a", "min") == 1
    assert best(records, "b", "min") is None


def test_words_for_settings():
    assert [_word(value) for value in (1, True, None, 0.0003, "x", [1])] == ["1", "true", "null", "0.0003", "x", "[1]"]


def test_a_paired_difference_is_narrower_than_two_intervals():
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 2, 400)
    good = np.eye(2)[np.where(generator.random(400) < 0.9, targets, 1 - targets)]
    worse = good.copy()
    worse[:20] = np.eye(2)[1 - targets[:20]]
    found = paired_difference(good, worse, targets, "accuracy")
    alone = bootstrap(good, targets, "accuracy")
    expected = (good.argmax(1) == targets).mean() - (worse.argmax(1) == targets).mean()
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    assert found.high - found.low < alone.high - alone.low
    assert (found.low, found.high) == pytest.approx((expected - 0.02, expected + 0.02), abs=0.008)


def test_predictions_are_matched_by_path():
    first = Predictions(part="test", paths=("a", "b"), truth=np.array([0, 1]), answers_NK=np.eye(2))
    turned = Predictions(part="test", paths=("b", "a"), truth=np.array([1, 0]), answers_NK=np.eye(2))
    matched = in_order_of(first, turned)
    assert matched is not None
    assert matched.answers_NK.tolist() == [[0, 1], [1, 0]]
    other = Predictions(part="test", paths=("b", "c"), truth=np.array([1, 0]), answers_NK=np.eye(2))
    relabelled = Predictions(part="test", paths=("a", "b"), truth=np.array([1, 1]), answers_NK=np.eye(2))
    assert in_order_of(first, other) is None
    assert in_order_of(first, relabelled) is None


@pytest.fixture
def controlled(tmp_path):
    """A run that is right on 90 % or more of the images, and one control that is right on about a half."""
    run = write_run(tmp_path / "run", pictures=False, hits=0.95, images=200, where=tmp_path)
    for name, hits in (("random_init", 0.0), ("linear_probe", 0.95)):
        folder = run / "controls" / name
        write_run(folder, pictures=False, hits=hits, images=200, where=tmp_path)
    return run


def test_the_report_says_by_how_much_transfer_helped(controlled):
    record = read_run(controlled)
    assert list(record.controls) == ["linear_probe", "random_init"]
    found = difference(record, record.controls["random_init"], headline(record.task))
    assert found is not None
    gain = [
        (said.answers_NK.argmax(1) == said.truth).mean()
        for said in (record.predictions["test"], record.controls["random_init"].predictions["test"])
    ]
    assert found.value == pytest.approx(gain[0] - gain[1])
    told = sentence(record, record.controls["random_init"], "random_init")
    assert told.startswith(f"Transfer helped by {100 * found.value:.1f} points of test accuracy (95 % interval +")
    before, after = (each.metrics["test/accuracy"] for each in (record.controls["random_init"], record))
    assert told.endswith(f": {before:.3f} with random weights, {after:.3f} in this run.")
    told = sentence(record, record.controls["linear_probe"], "linear_probe")
    assert told.startswith("No help of training more than the head could be measured: test accuracy changed by +0.0")
    report_command(SimpleNamespace(folders=[str(controlled)], out=None))
    page = Page((controlled / "report.html").read_text(encoding="utf-8"))
    assert "Did the transfer help?" in page.said
    assert "Transfer helped by" in page.said
