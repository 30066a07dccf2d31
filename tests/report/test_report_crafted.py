"""A run's folder may be a stranger's: its page is written, or the file that is not graft's is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft.config.compose import stored_config
from graft.config.faults import InputError
from graft.report import write_report
from graft.report.record import read_run
from graft.report.run_settings import settings_of
from graft.results.run_forms import read_document
from graft.sweep.objectives import figures, read_metrics
from graft.system.documents import Malformed, json_values, read_bytes, yaml_values
from tests.json_mutations import mutated
from tests.run_folder import write_run

FILES = ("metrics.json", "plan.json", "transfer.json", "drift.json")
BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs"), pictures=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "deep"),
        ('{"a": ' * 60 + "1" + "}" * 60, "deep"),
        ('{"a": NaN}', "the number NaN"),
        ('{"a": 1e999}', "the number 1e999"),
        ('{"a": ' + "9" * 5000 + "}", "5000 digits"),
        ("{", "Expecting property name"),
    ],
)
def test_json_that_is_too_much_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        json_values(text)
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match=r"plan\.json: expected JSON, received something else"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "an alias"),
        ("a: &a [*a]", "an alias"),
        ("[" * 5000, "deep|expected"),
        ("- " * 60 + "x", "deep"),
        ("a: 2020-13-45", "month"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("x" * (1 << 23), "letters"),
    ],
)
def test_yaml_that_is_too_much_is_refused(text: str, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        yaml_values(text)


def test_an_alias_bomb_in_a_runs_config_is_named(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / ".hydra" / "config.yaml").write_text(BOMB)
    with pytest.raises(InputError, match=r"config\.yaml: expected YAML, received something else \(an alias\)"):
        settings_of(read_run(folder))


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("fifo", "zero"):
        with pytest.raises(Malformed, match="no regular file"):
            read_bytes(tmp_path / name)
    (tmp_path / "four").write_bytes(b"1234")
    with pytest.raises(Malformed, match="more than 3 bytes"):
        read_bytes(tmp_path / "four", 3)


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("metrics.json", {"val/accuracy": "high"}, r"expected a number, received str 'high' \(under val/accuracy\)"),
        ("metrics.json", {"phases": {"a": 1}}, "expected a list"),
        ("plan.json", {"stages": [{"name": 7}]}, "expected text"),
        ("plan.json", {"task": {"kind": "poetry"}}, "expected one of single_label"),
        ("plan.json", {"classes": ["only one"]}, "received single_label with 2"),
        ("transfer.json", {"tensors": ["a"]}, "expected an object"),
        ("drift.json", {"stages": [{"stage": "a"}]}, "expected change, received none"),
    ],
)
def test_values_of_another_form_are_named(
    run: Path, tmp_path: Path, file: str, change: dict[str, Any], reason: str
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **change}))
    with pytest.raises(InputError, match=reason):
        read_run(folder)


def test_predictions_of_a_class_that_is_none_are_named(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    table = folder / "predictions.csv"
    for old, new, reason in ((",0,", ",9,", "a class without a probability"), (",0.", ",nan0.", "could not convert")):
        table.write_text((run / "predictions.csv").read_text().replace(old, new))
        with pytest.raises(InputError, match=reason):
            read_run(folder)


def test_a_long_name_and_a_formula_of_a_stage_leave_the_page_whole(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    plan = json.loads((folder / "plan.json").read_text())
    plan["stages"][0]["name"] = "$s$" * 22
    (folder / "plan.json").write_text(json.dumps(plan))
    assert "$s$" * 6 in write_report(folder).read_text()


def check_page(run: Path, folder: Path, file: str, change: Callable[[Any], Any]) -> None:
    if not folder.exists():
        shutil.copytree(run, folder)
    for name in FILES:
        shutil.copyfile(run / name, folder / name)
    text = json.dumps(change(json.loads((run / file).read_text())))
    (folder / file).write_text(text)
    with suppress(InputError):
        read_document(folder / file)
        write_report(folder)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(file=st.sampled_from(FILES), change=mutated())
def test_any_values_give_a_page_or_an_answer(
    run: Path, tmp_path: Path, file: str, change: Callable[[Any], Any]
) -> None:
    check_page(run, tmp_path / "run", file, change)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(change=mutated())
def test_any_of_many_values_give_a_page_or_an_answer(
    run: Path, tmp_path: Path, file: str, change: Callable[[Any], Any]
) -> None:
    check_page(run, tmp_path / "run", file, change)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "expected a config without aliases"),
        ("a: " + "[" * 5000, "nested at most 40 deep"),
        ("a: " + "x" * (1 << 23), "at most 4,194,304 bytes"),
    ],
)
def test_a_config_that_is_too_much_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=reason):
        stored_config(tmp_path)


def test_a_trials_metrics_that_are_nested_without_end_are_none(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("[" * 100_000)
    assert read_metrics(tmp_path) == {}
    assert figures({"a": int("9" * 401), "b": 1.0}) == {"b": 1.0}
