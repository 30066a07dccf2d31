"""What README.md and docs/ tell people to type is right, and their Python runs."""

from __future__ import annotations

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

import benchmarks
from graft.commands.cli import COMMANDS, parse
from graft.config.command_line import check_command_line
from graft.config.compose import register

ROOT = Path(__file__).resolve().parents[2]
DOORS = ("python train.py ", "python -m benchmarks", "graft ")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def typed(page: Path) -> list[str]:
    """Each command of the page, without what is said of it behind a #; also those that a table holds."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    doors = "|".join(map(re.escape, DOORS))
    cells = re.findall(rf"^\|.*?`((?:{doors})[^`]*)`", page.read_text(encoding="utf-8"), re.MULTILINE)
    commands = (part for line in [*lines, *cells] for part in line.split(" && "))
    return [command.strip() for command in commands if command.strip().startswith(DOORS)]


COMMANDS_OF_DOCS = [(page.name, command) for page in PAGES for command in typed(page)]
assert len(COMMANDS_OF_DOCS) > 20


@pytest.mark.parametrize(("page", "command"), COMMANDS_OF_DOCS)
def test_a_command_is_one_that_graft_takes(page: str, command: str) -> None:
    words = shlex.split(command, comments=True)
    if words[1] == "-m":
        parser = argparse.ArgumentParser(prog="python -m benchmarks", exit_on_error=False)
        benchmarks.configure(parser)
        parser.parse_args(words[3:])
        return
    if words[0] == "python":
        register()
        faults = check_command_line(words[2:], ROOT / "conf")
        assert [str(fault) for fault in faults if "that exists" not in fault.expected] == []
        return
    if words[1] == "plan":
        return
    parser = argparse.ArgumentParser(prog=f"graft {words[1]}", exit_on_error=False)
    import_module(COMMANDS[words[1]][0]).configure(parser)
    parse(parser, words[2:])


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "docs"], ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem}
    for number, code in enumerate(blocks(page, "python"), start=1):
        exec(compile(code, f"{page.name}, block {number}", "exec"), names)


def test_every_adapter_has_its_row() -> None:
    from graft.transfer.adapt import ADAPTERS

    page = (ROOT / "docs" / "donors.md").read_text(encoding="utf-8")
    table = page[page.index("| adapter |") :].split("\n\n")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    named = [name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)]
    assert sorted(named) == sorted(ADAPTERS)
