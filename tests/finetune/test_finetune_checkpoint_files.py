"""Checkpoint files: what they may hold, what is kept in memory, and each fault in its own words."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from graft.config.faults import InputError, RunFailed
from graft.finetune import checkpoint
from graft.finetune.checkpoint import (
    CheckpointFile,
    check_weights,
    clear,
    give_name,
    read_checkpoint,
    state_by_name,
    state_by_position,
    write_failure,
)
from graft.finetune.resume import ENTRIES, Resumption


def said(call: Any, kind: type[Exception] = InputError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def test_what_cannot_be_read_is_told_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    assert (
        said(lambda: read_checkpoint(path)) == f"resume: expected a checkpoint, received {path}, which does not exist"
    )
    path.write_bytes(b"nothing")
    assert said(lambda: read_checkpoint(path)) == (
        f"resume: expected a checkpoint of graft's, received {path}, which cannot be read (File is not a zip file); "
        "try resume=never"
    )
    torch.save({"weight": torch.arange(64.0)}, path)
    assert read_checkpoint(path)["weight"].tolist() == list(range(64))
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(64.0).numpy().tobytes()) + 9] ^= 1
    path.write_bytes(content)
    assert re.fullmatch(r"resume: .*, which cannot be read \(\S+/data/0 in it does not match its checksum\); .*",
                        said(lambda: read_checkpoint(path)))  # fmt: skip


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ([1, 2], "it holds a list"),
        (3, "it holds a int"),
        ({"a": Harmful()}, "it contains more than tensors and plain values, which is all that is loaded"),
        ({"a": 1}, "it has no usable epoch, global_step, pytorch-lightning_version, state_dict, optimizer_states"),
        (
            {**dict.fromkeys(ENTRIES, 1), "optimizer_states": []},
            "it has no usable pytorch-lightning_version, state_dict",
        ),
    ],
)
def test_what_is_no_checkpoint_is_told(
    tmp_path: Path, held: Any, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "last.ckpt"
    torch.save(held, path)
    assert said(lambda: Resumption("auto", tmp_path, print).path) == (
        f"resume: expected a checkpoint of graft's, received {path}, which cannot be read ({reason}); try resume=never"
    )
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/dev/zero"), os.mkfifo, Path.mkdir])
def test_what_never_ends_is_not_read(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "last.ckpt"
    make(path)
    assert "which cannot be read (no regular file)" in said(lambda: read_checkpoint(path))


def test_a_checkpoint_in_memory_is_a_copy_until_it_is_written(tmp_path: Path) -> None:
    path, file = tmp_path / "checkpoints" / "best.ckpt", CheckpointFile()
    moving, still = torch.zeros(2), torch.zeros(2)
    held = {"state_dict": OrderedDict(moving=moving, still=still), "more": [moving, (moving, 1)], "seen": {1}}
    with file.in_memory(still={"still"}):
        file.save_checkpoint(held, path)
    moving += 1
    still += 1
    assert not path.exists()
    file.write_snapshot()
    found = read_checkpoint(path)
    assert found["state_dict"]["moving"].tolist() == found["more"][0].tolist() == found["more"][1][0].tolist() == [0, 0]
    assert found["state_dict"]["still"].tolist() == [1, 1]  # of what never changes there is no copy
    assert (type(found["state_dict"]), found["more"][1][1], found["seen"]) == (OrderedDict, 1, {1})
    path.unlink()
    file.write_snapshot()  # once
    assert not path.exists()
    with file.in_memory():
        file.save_checkpoint(held, path)
    file.drop_snapshot()
    file.write_snapshot()
    assert not path.exists()
    file.save_checkpoint(held, path)  # no longer in memory
    assert file.load_checkpoint(path)["state_dict"]["moving"].tolist() == [1, 1]
    file.remove_checkpoint(path)
    file.remove_checkpoint(path)
    assert not path.exists()


def test_what_was_read_for_a_look_is_not_read_again(tmp_path: Path) -> None:
    taken = {"global_step": 3}
    file = CheckpointFile(tmp_path / "last.ckpt", lambda: taken)
    assert file.load_checkpoint(str(tmp_path / "last.ckpt")) is taken
    assert "which does not exist" in said(lambda: file.load_checkpoint(tmp_path / "best.ckpt"))


@pytest.mark.parametrize(
    ("held", "where"),
    [
        ({"a": {"b": [1, (object(),)]}}, "/a/b is a object"),
        ({"a": Path("x")}, f"/a is a {type(Path('x')).__name__}"),
        ({"a": {Path("x"): 1}}, f"/a key is a {type(Path('x')).__name__}"),
    ],
)
def test_nothing_but_tensors_and_plain_values_goes_into_a_checkpoint(tmp_path: Path, held, where: str) -> None:
    told = said(lambda: CheckpointFile().save_checkpoint(held, tmp_path / "x.ckpt"), AssertionError)
    assert told == f"a checkpoint holds tensors and primitives only, and {where}"
    fine = {"a": [1, "b", None, 2.5, True, {torch.ones(1)}, frozenset({1}), nn.Parameter(torch.ones(1))]}
    CheckpointFile().save_checkpoint(fine, tmp_path / "x.ckpt")


def test_a_disk_that_takes_nothing_is_told_with_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: SimpleNamespace(free=12_345_678_901))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    best, row, full = folder / "best.ckpt", tmp_path / "metrics.csv", OSError(28, "No space left on device")
    there = "No space left on device; 12,346 MB are free there"
    again = "make room, and the same command goes on"
    assert str(write_failure(best, full)) == f"{best} could not be written ({there}); {again}"
    (folder / "previous.ckpt").touch()
    assert str(write_failure(row, full)) == (
        f"{row} could not be written ({there}); previous.ckpt, written before, is intact; {again}"
    )
    (folder / "last.ckpt").touch()
    assert str(write_failure(best, RuntimeError("broken\nat 3"))) == (
        f"{best} could not be written (broken; 12,346 MB are free there); last.ckpt, written before, is intact; {again}"
    )
    gone = tmp_path / "gone" / "x.ckpt"
    assert str(write_failure(gone, full)) == (
        f"{gone} could not be written (No space left on device; 0 MB are free there); {again}"
    )
    (tmp_path / "file").touch()
    assert isinstance(write_failure(best, full), RunFailed)
    blocked = tmp_path / "file" / "x.ckpt"
    assert said(lambda: CheckpointFile().save_checkpoint({}, blocked), RunFailed).startswith(f"{blocked} could not be")


def test_another_name_is_a_link_or_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "last.ckpt").write_text("1")
    give_name(tmp_path / "last.ckpt", "best.ckpt")
    assert (tmp_path / "best.ckpt").samefile(tmp_path / "last.ckpt")

    def cannot(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", cannot)
    give_name(tmp_path / "last.ckpt", "previous.ckpt")
    assert (tmp_path / "previous.ckpt").read_text() == "1"
    assert not (tmp_path / "previous.ckpt").samefile(tmp_path / "last.ckpt")
    with pytest.raises(RunFailed, match=r"other\.ckpt could not be written \(No such file"):
        give_name(tmp_path / "missing.ckpt", "other.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "best.ckpt", "previous.ckpt"}


def test_leftovers_go_and_what_is_named(tmp_path: Path) -> None:
    for name in ("last.ckpt", "best.ckpt", "notes.tmp"):
        (tmp_path / name).touch()
    leftover = tmp_path / ".last.ckpt.0123456789abcdef.tmp"
    leftover.mkdir()
    (leftover / "last.ckpt").touch()
    clear(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "best.ckpt", "notes.tmp"}
    clear(tmp_path, ("best.ckpt", "previous.ckpt"))
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "notes.tmp"}


def group(name: str, *names: str) -> Any:
    return SimpleNamespace(name=name, names=names)


def test_an_optimizers_state_goes_by_name_and_back() -> None:
    module = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 1)})
    groups = [group("stem", "a.weight", "a.bias"), group("head", "b.weight")]
    optimizer = torch.optim.AdamW([
        {"params": [module["a"].weight, module["a"].bias], "name": "stem", "lr": 0.1},
        {"params": [module["b"].weight], "name": "head", "lr": 0.2},
    ])  # fmt: skip
    sum(each.sum() for each in module.parameters()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()
    state = optimizer.state_dict()
    named = state_by_name(state, groups)
    assert list(named["state"]) == ["a.weight", "a.bias", "b.weight"]
    assert [(each["name"], each["lr"], each["params"]) for each in named["param_groups"]] == [
        ("stem", 0.1, ["a.weight", "a.bias"]), ("head", 0.2, ["b.weight"]),
    ]  # fmt: skip
    assert state_by_position(named, groups, module) == state
    turned = state_by_position(named, groups[::-1], module)
    assert [each["params"] for each in turned["param_groups"]] == [[0], [1, 2]]
    assert turned["state"][0] is named["state"]["b.weight"]

    others = [group("stem", "a.weight"), group("top", "b.weight")]
    assert said(lambda: state_by_position(named, others, module)) == (
        "resume: expected the checkpoint's parameter groups, received others (head, stem, top differ); try the "
        "configuration that wrote it, or resume=never"
    )
    unknown = {**named, "state": {**named["state"], "c": {}, "d": {}}}
    assert said(lambda: state_by_position(unknown, groups, module)) == (
        "resume: expected optimizer state of this network's parameters, received that of c, d; try resume=never"
    )
    for key in ("exp_avg", "momentum_buffer", "max_exp_avg_sq"):
        odd = {**named, "state": {"a.bias": {key: torch.zeros(7)}}}
        assert said(lambda odd=odd: state_by_position(odd, groups, module)) == (
            f"resume: expected {key} of a.bias in shape (3,), received (7,); try resume=never"
        )
    factored = {**named, "state": {"a.bias": {"exp_avg_sq_row": torch.zeros(7), "exp_avg": torch.tensor(0.0)}}}
    state_by_position(factored, groups, module)  # shapes of their own


def test_weights_of_another_network_are_told_tensor_by_tensor() -> None:
    here = {name: torch.zeros(2) for name in ("a", "b", "c")}
    check_weights(dict(here), here)
    assert said(lambda: check_weights({"a": torch.zeros(3), "b": torch.zeros(2), "z": torch.zeros(1)}, here)) == (
        "resume: expected a checkpoint of this network, received one of another (3 tensors differ):\n"
        "  a in shape (2,), not (3,)\n  c, which it lacks\n  no z\n"
        "try the configuration that wrote it, resume=never, or another hydra.run.dir"
    )
    many = {f"x{place}": torch.zeros(1) for place in range(9)}
    assert said(lambda: check_weights({}, many)).count("which it lacks") == 5
    assert said(lambda: check_weights(many, {})).count("no x") == 5
    assert "(9 tensors differ)" in said(lambda: check_weights(many, {}))
