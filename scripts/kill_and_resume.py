"""Kills a run with SIGKILL again and again, resumes it each time, and counts the bits in which it ends differently.

    python scripts/kill_and_resume.py --kills 50                       # the table; exit code 1 if anything differs
    python scripts/kill_and_resume.py --kills 50 loss.label_smoothing=0.1   # further words go to the run's config

The run is graft's own pipeline on a small network and generated images, gradual unfreezing, two loader workers. It is
killed at random moments by the clock, halfway through writing a checkpoint, and at phase boundaries. Every run is a
process of its own, forked from this one, which has torch loaded already.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

BACKBONE = "test_resnet.r160_in1k"  # 0.5 M parameters, made for tests
KINDS = ("random moment", "checkpoint write", "phase boundary")
TIMES = ("seconds", "seconds_to_first_step", "train/seconds", "train/images_per_second", "images_per_second", "profile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60, help="no more kills after so long")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("overrides", nargs="*", help="further words of the run's command line")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        table = Harness(Path(place), arguments.workers, arguments.overrides, arguments.seed).kill(
            arguments.kills, time.monotonic() + 60 * arguments.minutes
        )
    print(as_text(table))
    raise SystemExit(0 if table["differing bits"].total() + table["unreadable checkpoints"].total() == 0 else 1)


class Harness:
    """One undisturbed run, and as many others as the kills take."""

    def __init__(self, place: Path, workers: int, overrides: list[str], seed: int) -> None:
        self.place, self.moments = place, random.Random(seed)
        self.overrides = [*words(make_inputs(place)), f"data.num_workers={workers}", *overrides]
        began = time.perf_counter()
        if self.live(place / "undisturbed", None) != 0:
            raise SystemExit((place / "undisturbed.log").read_text())
        self.duration = time.perf_counter() - began
        self.expected = ending(place / "undisturbed")

    def kill(self, kills: int, until: float) -> dict[str, Counter[str]]:
        table = {column: Counter[str]() for column in ("kills", "resumes", "differing bits", "unreadable checkpoints")}
        runs, folder, last_kind = 0, self.place / "run-0", ""
        while True:
            again = folder.exists()
            killed = table["kills"].total()
            kind = KINDS[killed % len(KINDS)] if killed < kills and time.monotonic() < until else None
            code = self.live(folder, kind)
            print(
                f"{table['kills'].total()} kills, {folder.name}: {kind or 'to the end'}, exit code {code}",
                file=sys.stderr,
            )
            table["resumes"][last_kind] += again
            if code == -signal.SIGKILL and kind:
                last_kind = kind
                table["kills"][kind] += 1
                table["unreadable checkpoints"][kind] += unreadable(folder)
                continue
            assert code == 0, f"a run failed:\n{(folder.parent / f'{folder.name}.log').read_text()[-3000:]}"
            if again:
                table["differing bits"][last_kind] += differing_bits(self.expected, ending(folder))
            if kind is None:
                return table
            runs += 1
            folder = self.place / f"run-{runs}"

    def live(self, folder: Path, kind: str | None) -> int:
        """One process of the run, to its end or its death; its exit code."""
        moment = self.moments.random()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run_here(folder, self.overrides, kind, moment)
                code = 0
            except BaseException:  # os._exit below would leave it unsaid
                traceback.print_exc()
                raise
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        if kind == "random moment":
            time.sleep(moment * self.duration)
            os.kill(child, signal.SIGKILL)  # it is a zombie at least, until it is waited for
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_here(folder: Path, overrides: list[str], kind: str | None, moment: float) -> None:
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if kind == "checkpoint write":
        die_while_writing(int(moment * 6))
    if kind == "phase boundary":
        die_at_phase(int(moment * 16))
    from graft.pipeline.run import run

    folder.mkdir(exist_ok=True)
    run(configuration(overrides), folder, overrides)


def die_while_writing(number: int) -> None:
    """Half of that checkpoint, counted from 0, reaches the disk."""
    import torch

    from graft.finetune import checkpoint

    save, calls = torch.save, iter(range(1_000_000))

    def half(value: Any, path: Path) -> None:
        save(value, path)
        if next(calls) == number:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.torch.save = half


def die_at_phase(number: int) -> None:
    """In front of the first step of the first new phase that begins behind so many steps."""
    from graft.finetune.module import FineTuning

    enter = FineTuning.enter_phase

    def entering(self: FineTuning, step: int) -> None:
        present = self.watch.phase
        if step > number and present is not None and present is not self.watch.phase_at(step):
            os.kill(os.getpid(), signal.SIGKILL)
        enter(self, step)

    FineTuning.enter_phase = entering


def words(inputs: dict[str, Path]) -> list[str]:
    return [
        "backbone=timm", f"backbone.name={BACKBONE}", "donor=file", f"donor.path={inputs['donor']}", "freeze=backbone",
        "unfreeze=gradual", "unfreeze.start='3 steps'", "unfreeze.every='4 steps'", "optimizer.lr=0.01",
        "data=folder", f"data.root={inputs['images']}", "data.image_size=32", "data.batch_size=4", "augment=light",
        "cache=none", "trainer=cpu", "trainer.threads=1", "trainer.max_epochs=4", "trainer.progress=false",
        "checkpoint.every_n_steps=2",
    ]  # fmt: skip


def configuration(overrides: list[str]) -> Any:
    from hydra import compose, initialize_config_dir

    from graft.config.compose import parse, register

    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return parse(compose("config", overrides))


def make_inputs(place: Path) -> dict[str, Path]:
    """Donor weights, and images of two classes."""
    import numpy as np
    import timm
    import torch
    from PIL import Image

    import graft.pipeline.run  # noqa: F401 - once, for all the processes that are forked from this one

    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.save(timm.create_model(BACKBONE, num_classes=2).state_dict(), place / "donor.pth")
    rng = np.random.default_rng(0)
    for part, count in (("train", 14), ("val", 4), ("test", 4)):
        for label in (0, 1):
            folder = place / "images" / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                picture = rng.integers(0, 160, (32, 32, 3), dtype=np.uint8)
                picture[..., label] += 60
                Image.fromarray(picture).save(folder / f"{number}.png")
    return {"donor": place / "donor.pth", "images": place / "images"}


def unreadable(folder: Path) -> int:
    """How many of the checkpoints that stand there cannot be read."""
    from graft.config.faults import InputError
    from graft.finetune.checkpoint import read_checkpoint

    count = 0
    for path in (folder / "checkpoints").glob("*.ckpt"):
        if not path.name.startswith("."):
            try:
                read_checkpoint(path)
            except InputError:
                count += 1
    return count


def ending(folder: Path) -> dict[str, Any]:
    """All that a finished run leaves and that must be the same: weights, optimizer state, metrics; not its times."""
    import torch
    from safetensors.torch import load_file

    saved = {name: torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("last", "best")}
    metrics = json.loads((folder / "metrics.json").read_text())
    found = {
        **{name: {key: state[key] for key in ("state_dict", "optimizer_states", "global_step")}
           for name, state in saved.items()},
        "history": saved["last"]["graft"]["history"],
        "model": load_file(folder / "model" / "model.safetensors"),
        "metrics": metrics,
    }  # fmt: skip
    return dict(flat(found, ""))


def flat(value: Any, name: str) -> Any:
    """Leaves by their path; what a clock says is left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in TIMES:
                yield from flat(inner, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from flat(inner, f"{name}/{number}")
    else:
        yield name, value


def differing_bits(expected: dict[str, Any], received: dict[str, Any]) -> int:
    """Over all leaves; a leaf that is missing, or of another form, counts as one bit at least."""
    return sum(bits_between(expected.get(name), received.get(name)) for name in sorted({*expected, *received}))


def bits_between(one: Any, other: Any) -> int:
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return max(one.numel(), other.numel(), 1)
        left, right = (tensor.contiguous().reshape(-1).view(torch.uint8).numpy() for tensor in (one, other))
        return sum(int(byte).bit_count() for byte in (left ^ right)[left != right])
    return int(repr(one) != repr(other))


def as_text(table: dict[str, Counter[str]]) -> str:
    columns = list(table)
    rows = [[kind, *(str(table[column][kind]) for column in columns)] for kind in KINDS]
    rows.append(["in all", *(str(table[column].total()) for column in columns)])
    lines = [["killed at", *columns], ["---"] * (len(columns) + 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
