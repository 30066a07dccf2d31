"""Groups, options and main configs of a user's own, as in any Hydra application."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.config.command_line import check_command_line
from graft.config.compose import register
from graft.config.own_configs import named_folder, own_folders
from graft.config.presets import composed, conf_folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with conf/ and more/, in which this process stands."""
    for place, name in (("conf", "mine"), ("more", "other")):
        (tmp_path / place / "experiment").mkdir(parents=True)
        text = "# @package _global_\noptimizer:\n  lr: 0.5\n"
        (tmp_path / place / "experiment" / f"{name}.yaml").write_text(text)
    (tmp_path / "conf" / "debug").mkdir()
    (tmp_path / "conf" / "debug" / "fast.yaml").write_text("# @package _global_\ntrainer:\n  max_epochs: 1\n")
    (tmp_path / "conf" / "second.yaml").write_text("defaults:\n  - config\n  - _self_\nseed: 7\n")
    monkeypatch.chdir(tmp_path)
    register()
    return tmp_path


def faults(*words: str) -> list[str]:
    return [str(fault) for fault in check_command_line(words, conf_folder())]


def test_conf_of_the_current_folder_adds_options_and_groups(project: Path) -> None:
    assert own_folders() == (project / "conf",)
    assert composed(["experiment=mine"]).optimizer.lr == 0.5
    assert composed(["+debug=fast"]).trainer.max_epochs == 1
    assert faults("--config-name", "second") == []
    assert faults("+debug=fsat") == ["+debug: expected one of fast, received fsat; try +debug=fast"]
    (unknown,) = faults("experiment=other")
    assert unknown.startswith("experiment: expected one of bitfit, ")
    assert "mine" in unknown


def test_conf_of_another_program_is_left_alone(project: Path) -> None:
    (project / "conf" / "config.yaml").write_text("a: 1\n")
    assert own_folders() == ()
    (fault,) = faults("+debug=fast")
    assert fault.startswith("debug: expected a key of the config, received an unknown key")


@pytest.mark.parametrize(
    "words",
    [
        ("--config-dir", "more"),
        ("--config-dir=more",),
        ("hydra.searchpath=[more]",),
        ("hydra.searchpath=[file://{project}/more]",),
    ],
)
def test_other_folders_are_searched_too(words: tuple[str, ...], project: Path) -> None:
    given = [word.replace("{project}", str(project)) for word in words]
    assert faults(*given, "experiment=other", "+debug=fast") == []
    assert faults(*given, "experiment=mine") == []
    assert "received neither" in faults(*given, "experiment=neither")[0]


def test_a_named_folder_comes_first_and_for_a_while(project: Path) -> None:
    with named_folder(Path("more")):
        assert own_folders() == (project / "more", project / "conf")
    assert own_folders() == (project / "conf",)


def test_flags_that_hydra_answers_with_a_traceback_are_answered_in_words() -> None:
    assert faults("-m", "--cfg", "job") == ["--cfg: expected one run, received -m; try the same without -m"]
    (fault,) = faults("--experimental-rerun", "outputs/run")
    assert fault.startswith("--experimental-rerun: expected a run's own words, received outputs/run; try the command")
