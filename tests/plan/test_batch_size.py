"""data.batch_size=auto becomes a number before anything is planned."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from graft.config.compose import parse, register
from graft.config.faults import ConfigError
from graft.models.network import network_for
from graft.plan.memory import batch_size_before, free_memory, largest_batch, with_batch_size

CONF = Path(__file__).resolve().parents[2] / "conf"
MB = 1_000_000


def config_of(*overrides):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse(compose("config", ["backbone=resnet18", "data.image_size=64", "trainer=cpu", *overrides]))


def meta(config):
    return network_for(config.network, 2, device="meta")


def test_more_memory_holds_larger_batches_and_fewer_trained_stages_too():
    config = config_of("data.batch_size=auto", "freeze=none", "donor=none")
    sizes = [largest_batch(config, meta(config), 1000, free * MB) for free in (100, 600, 100_000)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] == 256
    assert 1 < sizes[1] < 256
    head = config_of("data.batch_size=auto", "freeze=backbone")
    assert largest_batch(head, meta(head), 1000, 600 * MB) > sizes[1]
    assert largest_batch(config, meta(config), 20, 100_000 * MB) == 16


def test_what_a_stalled_figure_may_thaw_counts_as_what_thaws_at_its_time():
    head, decided, timed = (
        largest_batch(config, meta(config), 1000, 400 * MB)
        for words in ((), ("unfreeze=plateau",), ("unfreeze=gradual",))
        for config in [config_of("data.batch_size=auto", "freeze=backbone", *words)]
    )
    assert decided == timed < head


def test_a_number_stays_and_a_run_that_goes_on_keeps_its_own(tmp_path):
    config = config_of("data.batch_size=4")
    assert with_batch_size(config, meta(config), 1000, 24) == (config, "")
    auto = config_of("data.batch_size=auto")
    chosen, remark = with_batch_size(auto, meta(auto), 1000, None)
    assert remark.startswith(f"data.batch_size=auto: {chosen.data.batch_size} images, estimated for ")
    later, remark = with_batch_size(auto, meta(auto), 1000, 24)
    assert (later.data.batch_size, remark) == (24, "")
    (tmp_path / "plan.json").write_text(json.dumps({"batch_size": 24}))
    assert batch_size_before(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert batch_size_before(tmp_path) == 24


def test_lora_joins_a_copy_of_the_network_that_is_planned_with():
    config = config_of("data.batch_size=auto", "method.lora=2", "freeze=backbone")
    network = meta(config)
    names = network.names
    assert largest_batch(config, network, 1000, 600 * MB) > 1
    assert network.names == names


def test_free_memory_is_some_and_less_than_the_machine_has():
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < free_memory("cpu") < total


@pytest.mark.parametrize("value", ["0", "many", "2.5", "true"])
def test_anything_else_is_a_mistake(value):
    with pytest.raises(ConfigError, match=r"data\.batch_size: expected a whole number from 1 upward, or auto"):
        config_of(f"data.batch_size={value}")
