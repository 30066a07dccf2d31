import io

import pytest
from rich.console import Console

from graft.config.schema import CheckpointConfig, LoggerConfig
from graft.finetune.callbacks import as_csv, best_row
from graft.finetune.fit import fit
from graft.finetune.loggers import make_loggers


def said(tiny, folder, **console):
    file = io.StringIO()
    trainer = tiny.trainer(progress=True)
    fit(
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
    fit(tiny.tuning(freeze="stem"), tiny.Data(), tmp_path, trainer=tiny.trainer())
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


def test_rows_become_csv():
    assert as_csv([{"epoch": 0, "frozen": "stem, layer1"}, {"epoch": 1, "frozen": "nothing"}]) == (
        'epoch,frozen\n0,"stem, layer1"\n1,nothing\n'
    )


def test_tensorboard_holds_a_point_an_epoch(tiny, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    loggers = make_loggers(LoggerConfig(tensorboard=True), tmp_path)
    result = fit(tiny.tuning(), tiny.Data(), tmp_path, trainer=tiny.trainer(), loggers=loggers)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    points = events.Scalars("val/loss")
    assert [point.step for point in points] == [7, 14]
    assert [point.value for point in points] == pytest.approx([row["val/loss"] for row in result.history])
