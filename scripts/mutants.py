"""Changes the sources by one small step at a time and counts how many of these changes a test notices.

python scripts/mutants.py --sample 40 --seed 0              # of each room, so many drawn at random
python scripts/mutants.py src/graft/tasks                    # every one of a folder or a file
python scripts/mutants.py --again outputs/mutants/last.json  # those that were not noticed then

Needs the extras `test` and `mutation`. The steps are mutmut's (== for !=, None for a value, one argument less …). Each
change is tried in a fork of one process, in a copy of the repository, on those tests alone that go over its lines.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is first imported

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from mutation_points import Mutant, mutants_of
from mutation_tests import TIMED_OUT, Reach, copy_tree, find_reach, fork, preload, run_pytest, wait

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("src/graft/transfer", "src/graft/finetune", "src/graft/tasks")
TESTS = ("transfer", "finetune", "tasks", "plan", "heads", "models", "results", "data", "pipeline")
OUTPUT = Path("outputs/mutants")
NOT_RUN = "no test runs it"


@dataclass(frozen=True, slots=True)
class Tried:
    """A change and what became of it."""

    room: str
    mutant: str
    outcome: str
    """killed, timeout, survived, or that no test runs its lines."""
    tests: int
    seconds: float

    @property
    def noticed(self) -> bool:
        return self.outcome in ("killed", "timeout")


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        tree = copy_tree(ROOT, Path(scratch))
        chosen = list(_choose(args, tree))
        say(f"{len(chosen)} changes in {len({room for room, _ in chosen})} rooms")
        preload()
        files = sorted(
            str(path.relative_to(tree)) for name in args.tests for path in (tree / "tests" / name).rglob("test_*.py")
        )
        reach = find_reach(tree, files, args.rooms, ROOT / OUTPUT / "reach", say)
        tried: list[Tried] = []
        for number, (room, mutant) in enumerate(chosen, start=1):
            tried.append(_try(tree, room, mutant, reach, args.seconds))
            say(f"{number}/{len(chosen)}  {tried[-1].outcome:<9} {tried[-1].seconds:5.1f} s  {mutant}")
            _write([asdict(each) for each in tried])
    print(_table(tried))
    return 0


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rooms", nargs="*", default=list(ROOMS), help=f"folders or files ({' '.join(ROOMS)})")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of each room, drawn at random; all of them")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    parser.add_argument("--seconds", type=float, default=60, help="of tests to spend on a change at most (60)")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), metavar="FOLDER", help="folders of tests/")
    parser.add_argument("--again", type=Path, metavar="FILE", help="only those that survived in that record")
    return parser.parse_args(argv)


def _choose(args: argparse.Namespace, tree: Path) -> Iterator[tuple[str, Mutant]]:
    again = None
    if args.again is not None:
        again = {each["mutant"] for each in json.loads(args.again.read_text()) if each["outcome"] != "killed"}
    for room in args.rooms:
        paths = [tree / room] if (tree / room).is_file() else sorted((tree / room).rglob("*.py"))
        held = [mutant for path in paths for mutant in mutants_of(tree, str(path.relative_to(tree)))]
        if again is not None:
            held = [mutant for mutant in held if str(mutant) in again]
        if args.sample is not None:
            random.Random(f"{args.seed} {room}").shuffle(held)
        changing = ((room, mutant) for mutant in held if mutant.source is not None)
        yield from islice(changing, args.sample)


def _try(tree: Path, room: str, mutant: Mutant, reach: Reach, budget: float) -> Tried:
    began = time.monotonic()
    tests = reach.within(reach.tests_of(mutant.path, mutant.lines), budget)
    if not tests:
        return Tried(room, str(mutant), NOT_RUN, 0, 0.0)
    expected = sum(reach.seconds[test] for test in tests)
    path = tree / mutant.path
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant.source or original, encoding="utf-8")
    try:
        pid = fork(lambda: run_pytest(tree, tests), log=ROOT / OUTPUT / "last.log")
        code = wait(pid, 60 + 5 * expected)
    finally:
        path.write_text(original, encoding="utf-8")
    outcome = {0: "survived", TIMED_OUT: "timeout"}.get(code, "killed")
    return Tried(room, str(mutant), outcome, len(tests), round(time.monotonic() - began, 1))


def _write(tried: list[dict[str, object]]) -> None:
    (ROOT / OUTPUT).mkdir(parents=True, exist_ok=True)
    (ROOT / OUTPUT / "last.json").write_text(json.dumps(tried, indent=1, ensure_ascii=False))


def _table(tried: Sequence[Tried]) -> str:
    lines = ["| room | changes | noticed | share |", "| --- | --- | --- | --- |"]
    for room in [*dict.fromkeys(each.room for each in tried), "all"]:
        held = [each for each in tried if room in (each.room, "all")]
        noticed = sum(each.noticed for each in held)
        lines.append(f"| {room} | {len(held)} | {noticed} | {noticed / max(len(held), 1):.0%} |")
    unnoticed = [f"{each.outcome}: {each.mutant}" for each in tried if not each.noticed]
    return "\n".join([*lines, "", *unnoticed])


if __name__ == "__main__":
    raise SystemExit(main())
