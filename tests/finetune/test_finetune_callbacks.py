import io
import math

import pytest
from rich.console import Console

from graft.config.faults import RunFailed
from graft.config.schema import CheckpointConfig, LoggerConfig
from graft.finetune.callbacks import as_csv, best_row, make_loggers
from graft.finetune.module import FineTuning

NAN = math.nan


def said(tiny, folder, **console):
    file = io.StringIO()
    trainer = tiny.trainer(progress=True)
    tiny.fit(
        tiny.tuning(freeze="stem"),
        tiny.Data(),
        folder,
        trainer=trainer,
        console=Console(file=file, width=40, **console),
    )
    return file.getvalue()


def test_one_line_an_epoch_where_nobody_watches(tiny, tmp_path):
    lines = said(tiny, tmp_path).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    for part in ("train loss 1.0177", "val loss 1.0656", "frozen stem", "lr ", "images/s"):
        assert part in lines[0]


def test_a_bar_counts_the_batches_on_a_terminal(tiny, tmp_path):
    written = said(tiny, tmp_path, force_terminal=True)
    assert "7/7" in written
    assert "epoch 2/2  train loss" in written


def test_no_progress_says_nothing_and_warns_of_nothing(tiny, tmp_path, capfd):
    tiny.fit(tiny.tuning(freeze="stem"), tiny.Data(), tmp_path, trainer=tiny.trainer())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("monitor", "direction", "epoch"),
    [("val/loss", "min", 1), ("val/accuracy", "max", 0), ("val/accuracy", "min", 2)],
)
def test_the_best_epoch_is_the_earliest_of_equals(monitor, direction, epoch):
    history = [
        {"epoch": 0, "val/loss": 0.5, "val/accuracy": 0.9},
        {"epoch": 1, "val/loss": 0.3, "val/accuracy": 0.9},
        {"epoch": 2, "val/loss": 0.3, "val/accuracy": 0.8},
    ]
    assert best_row(history, CheckpointConfig(monitor=monitor, direction=direction))["epoch"] == epoch


@pytest.mark.parametrize(("values", "epoch"), [([0.1, 0.3, 0.2], 3), ([0.1, 0.3, NAN], 2), ([NAN, NAN], None)])
def test_the_last_epoch_with_a_number_is_taken_where_that_is_asked_for(values, epoch):
    history = [{"epoch": number, "val/loss": value} for number, value in enumerate(values, 1)]
    best = best_row(history, CheckpointConfig(epoch="last"))
    assert (None if best is None else best["epoch"]) == epoch


@pytest.mark.parametrize(
    ("values", "direction", "epoch"),
    [
        ([NAN, 0.3, 0.1], "min", 3),
        ([NAN, 0.3, 0.1], "max", 2),
        ([0.3, NAN, 0.3], "min", 1),
        ([math.inf, 0.1, NAN], "max", 2),
        ([-math.inf, 0.1], "min", 2),
        ([NAN, math.inf], "min", None),
    ],
)
def test_what_is_no_finite_number_is_never_the_best(values, direction, epoch):
    history = [{"epoch": place, "val/loss": value} for place, value in enumerate(values, 1)]
    best = best_row(history, CheckpointConfig(monitor="val/loss", direction=direction))
    assert (best and best["epoch"]) == epoch


def test_a_run_whose_figure_is_nan_after_every_epoch_has_failed(tiny, tmp_path):
    data = tiny.Data()
    data.parts["val"].image[3] = NAN
    told = (
        r"checkpoint\.monitor: expected an epoch after which val/loss is a number, received nan after each of 2 epochs"
    )
    with pytest.raises(RunFailed, match=told):
        tiny.fit(tiny.tuning(), data, tmp_path, trainer=tiny.trainer())
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}


def test_an_epoch_whose_figure_is_nan_is_not_kept(tiny, tmp_path, monkeypatch):
    """The first epoch's evaluation meets NaN; the second's is the best there is."""
    data = tiny.Data()
    whole = data.parts["val"].image.clone()
    data.parts["val"].image[3] = NAN
    finish = FineTuning.finish_epoch

    def mended(self):
        data.parts["val"].image[:] = whole
        return finish(self)

    monkeypatch.setattr(FineTuning, "finish_epoch", mended)
    result = tiny.fit(tiny.tuning(), data, tmp_path, trainer=tiny.trainer())
    assert [math.isnan(row["val/loss"]) for row in result.history] == [True, False]
    assert result.best_epoch == 2
    assert result.metrics["val/loss"] == pytest.approx(result.history[1]["val/loss"])


def test_weights_whose_figure_is_nan_when_they_are_evaluated_for_the_last_time_are_not_exported(
    tiny, tmp_path, monkeypatch
):
    data = tiny.Data()
    finish = FineTuning.finish_epoch

    def spoil(self):
        row = finish(self)
        data.parts["val"].image[3] = NAN
        return row

    monkeypatch.setattr(FineTuning, "finish_epoch", spoil)
    with pytest.raises(RunFailed, match="expected val/loss to be a number for the best epoch's weights, received nan"):
        tiny.fit(tiny.tuning(), data, tmp_path, trainer=tiny.trainer(max_epochs=1))


def test_rows_become_csv():
    assert as_csv([{"epoch": 0, "frozen": "stem, layer1"}, {"epoch": 1, "frozen": "nothing"}]) == (
        'epoch,frozen\n0,"stem, layer1"\n1,nothing\n'
    )


def test_tensorboard_holds_a_point_an_epoch(tiny, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    loggers = make_loggers(LoggerConfig(tensorboard=True), tmp_path)
    result = tiny.fit(tiny.tuning(), tiny.Data(), tmp_path, trainer=tiny.trainer(), loggers=loggers)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    points = events.Scalars("val/loss")
    assert [point.step for point in points] == [7, 14]
    assert [point.value for point in points] == pytest.approx([row["val/loss"] for row in result.history])
