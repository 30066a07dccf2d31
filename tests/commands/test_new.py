"""`graft new`: what it writes trains and exports as it is, and nobody's files are written over."""

from __future__ import annotations

import sys
import tomllib
from glob import glob
from pathlib import Path

import pytest

import graft
from graft.commands.cli import dispatch
from graft.commands.new import TEMPLATE
from graft.config.faults import InputError

MODULES = ("my_backbone", "my_data", "my_loss", "test_project")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new project, in whose folder this process stands."""
    assert dispatch(["new", str(tmp_path / "mine")]) == 0
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.syspath_prepend(tmp_path / "mine")
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / "mine"


def test_a_new_project_trains_and_exports(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("trainer.accelerator=cpu", "trainer.threads=1", "trainer.progress=false", "data.num_workers=0")
    run = graft.train("experiment=first", *small, folder=project / "outputs" / "first", quiet=True)
    assert run.metrics["epochs"] == 15
    assert run.metrics["val/accuracy"] > 0.8
    assert dispatch(["export", "--import-code", "outputs/first"]) == 0
    exported = capsys.readouterr().out.splitlines()[-1]
    assert graft.load(exported, import_code=True).classes == ("circle", "square")


def test_it_names_what_it_wrote_and_the_next_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my project").mkdir()
    dispatch(["new", str(tmp_path / "my project")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"wrote 7 files into {tmp_path / 'my project'}:"
    assert "  conf/experiment/first.yaml" in lines
    assert lines[-1] == f"next: cd '{tmp_path / 'my project'}' && graft train experiment=first"


def test_a_folder_with_anything_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(InputError, match="DIR: expected a folder that does not exist yet or is empty"):
        dispatch(["new", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == [".git"]


def test_the_template_is_in_the_wheel(root: Path) -> None:
    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["graft"]
    place = root / "src" / "graft"
    packaged = {place / name for pattern in data for name in glob(pattern, root_dir=place, recursive=True)}
    assert {path for path in TEMPLATE.rglob("*") if path.is_file()} <= packaged | set(TEMPLATE.rglob("*.pyc"))
