"""data.batch_size=auto becomes a number before anything is planned."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from graft.config.compose import parse, register
from graft.config.faults import ConfigError
from graft.data.table import Sample, Table
from graft.plan.memory import free_memory, largest_batch, with_batch_size

CONF = Path(__file__).resolve().parents[2] / "conf"
MB = 1_000_000


def config_of(*overrides):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse(compose("config", ["backbone=resnet18", "data.image_size=64", "trainer=cpu", *overrides]))


def table_of(train=1000):
    samples = tuple(Sample(path=f"{number}.png", label=number % 2) for number in range(train))
    return Table(classes=("a", "b"), train=samples, val=samples[:4], test=())


def test_more_memory_holds_larger_batches_and_fewer_trained_stages_too():
    config = config_of("data.batch_size=auto", "freeze=none", "donor=none")
    sizes = [largest_batch(config, table_of(), free * MB) for free in (100, 600, 100_000)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] == 256
    assert 1 < sizes[1] < 256
    head = config_of("data.batch_size=auto", "freeze=backbone")
    assert largest_batch(head, table_of(), 600 * MB) > sizes[1]
    assert largest_batch(config, table_of(train=20), 100_000 * MB) == 16


def test_what_a_stalled_figure_may_thaw_counts_as_what_thaws_at_its_time():
    head, decided, timed = (
        largest_batch(config_of("data.batch_size=auto", "freeze=backbone", *words), table_of(), 400 * MB)
        for words in ((), ("unfreeze=plateau",), ("unfreeze=gradual",))
    )
    assert decided == timed < head


def test_a_number_stays_and_a_run_that_goes_on_keeps_its_own(tmp_path):
    said = []
    config = config_of("data.batch_size=4")
    assert with_batch_size(config, table_of(), tmp_path, said.append) is config
    auto = config_of("data.batch_size=auto")
    chosen = with_batch_size(auto, table_of(), tmp_path, said.append).data.batch_size
    assert said[0].startswith(f"batch     {chosen} images, estimated for ")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "plan.json").write_text(json.dumps({"batch_size": 24}))
    assert with_batch_size(auto, table_of(), tmp_path, said.append).data.batch_size == 24
    anew = with_batch_size(replace(auto, resume="never"), table_of(), tmp_path, said.append)
    assert anew.data.batch_size == chosen


def test_free_memory_is_some_and_less_than_the_machine_has():
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < free_memory("cpu") < total


@pytest.mark.parametrize("value", ["0", "many", "2.5", "true"])
def test_anything_else_is_a_mistake(value):
    with pytest.raises(ConfigError, match=r"data\.batch_size: expected a whole number from 1 upward, or auto"):
        config_of(f"data.batch_size={value}")
