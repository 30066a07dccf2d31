"""What is written, and the values that the code gets: parsed once, in config, and written back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from graft.config.compose import section_of
from graft.config.duration import Duration, Unit
from graft.config.faults import ConfigError, InputError
from graft.config.presets import composed
from graft.config.schema import Config, OptimizerConfig, SchedulerConfig, TrainerConfig, UnfreezeConfig
from graft.config.values import form_of, to_plain, values_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_durations_are_values_and_keep_their_words() -> None:
    config = composed(["scheduler.warmup='5 %'", "unfreeze=at", "unfreeze.table={3: none, 60%: [layer1.0]}"])
    assert config.scheduler.warmup == Duration(0.05, Unit.fraction)
    assert to_plain(config.scheduler)["warmup"] == "5 %"
    assert config.unfreeze.table == {Duration(3, Unit.epochs): "none", Duration(0.6, Unit.fraction): ["layer1.0"]}
    assert to_plain(config.unfreeze)["table"] == {"3": "none", "60%": ["layer1.0"]}


def test_a_config_is_written_as_it_was_composed() -> None:
    config = composed(["optimizer.lr=find", "data.batch_size=auto", "freeze=[conv1, layer1.0]"])
    written = to_plain(config)
    assert (written["optimizer"]["lr"], written["data"]["batch_size"]) == ("find", "auto")
    assert written["freeze"] == ["conv1", "layer1.0"]
    assert written["scheduler"]["warmup"] == 0
    assert values_of(Config, written) == config


def test_the_form_has_the_schema_s_fields_in_types_that_omegaconf_checks() -> None:
    form = OmegaConf.structured(form_of(Config))
    assert form.unfreeze.every == "1 epoch"
    assert form.trainer.precision == "auto"
    assert list(form) == list(Config.__dataclass_fields__)


def test_a_rate_and_a_batch_size_that_are_no_numbers_yet_are_none() -> None:
    config = composed(["optimizer.lr=find", "data.batch_size=auto"])
    with pytest.raises(ValueError, match=r"optimizer\.lr: expected a number, received find"):
        _ = config.optimizer.rate
    with pytest.raises(ValueError, match=r"data\.batch_size: expected a number, received auto"):
        _ = config.data.images
    assert OptimizerConfig(name="adamw", lr=0.1).rate == 0.1


def test_a_duration_that_is_none_is_named_by_its_key() -> None:
    with pytest.raises(InputError, match=r'unfreeze\.every: expected "2 epochs"'):
        values_of(UnfreezeConfig, {"every": "soon"}, "unfreeze")


def test_one_section_of_a_file() -> None:
    assert section_of(SchedulerConfig, {"kind": "step", "every": 3}).every == Duration(3, Unit.epochs)
    assert section_of(TrainerConfig, {"max_epochs": 2}).accelerator == "auto"


def test_words_of_a_closed_set_are_checked_wherever_the_schema_has_them() -> None:
    with pytest.raises(
        ConfigError, match=r"backbone\.keras\.preprocess\.interpolation: expected one of bilinear, bicu"
    ):
        composed(["backbone.keras.preprocess.interpolation=bicubical"])
    with pytest.raises(ConfigError, match=r"donor\.keras\.accept: expected for each entry one of padding, strides"):
        composed(["donor=keras", "donor.path=train.py", "donor.keras.accept=[paddings]"])
