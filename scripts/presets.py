"""Runs presets over seeds, one after the other, and writes their table as Markdown; what is done is not run again.

python scripts/presets.py --seeds 0 1 2
python scripts/presets.py --presets feature_extraction lp_ft --seeds 0 --folder outputs/mine data=folder data.root=PATH
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from graft.page.words import duration
from graft.report.record import RunRecord, read_run
from graft.system.files import write_text

ROOT = Path(__file__).resolve().parent.parent
PRESETS = sorted(file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml"))
TABLE = "presets.md"
HEAD = "| preset | {part} accuracy | of each seed | trainable parameters | time of `fit` |\n" + "| --- " * 5 + "|\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--presets",
        nargs="+",
        default=PRESETS,
        choices=PRESETS,
        metavar="NAME",
        help="options of experiment=; all of them",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED")
    parser.add_argument("--folder", type=Path, default=Path("outputs/presets"), help="of the runs and the table")
    args, overrides = parser.parse_known_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    rows: list[str] = []
    part = "test"
    for preset in args.presets:
        runs = [
            run((f"experiment={preset}", f"seed={seed}", *overrides), args.folder / preset / f"seed{seed}")
            for seed in args.seeds
        ]
        done = [record for record in runs if record is not None]
        rows.append(row(preset, done, failed=len(runs) - len(done)))
        part = done[0].judged if done else part
        write_text(args.folder / TABLE, HEAD.format(part=part) + "".join(rows))
    print((args.folder / TABLE).read_text(encoding="utf-8"))
    return 1 if any("failed" in line for line in rows) else 0


def run(words: Sequence[str], folder: Path) -> RunRecord | None:
    """The run's record; None where it failed, of which train.py has said why."""
    folder = folder.absolute()
    if (folder / "metrics.json").is_file():
        record = read_run(folder)
        if set(record.overrides) == set(words):
            print(f"done already: {folder}", file=sys.stderr)
            return record
        raise SystemExit(
            f"{folder}: expected a run of {' '.join(words)}, received one of {' '.join(record.overrides)};"
            " try another --folder"
        )
    command = [sys.executable, "train.py", *words, f"hydra.run.dir={folder}"]
    print(" ".join(command[1:]), file=sys.stderr)
    done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
    return read_run(folder) if done.returncode == 0 else None


def row(preset: str, runs: Sequence[RunRecord], *, failed: int) -> str:
    if not runs:
        return f"| {preset} | failed | | | |\n"
    accuracies = [float(record.metrics[f"{record.judged}/accuracy"]) for record in runs]
    spread = f" ± {stdev(accuracies):.4f}" if len(accuracies) > 1 else ""
    each = ", ".join(f"{accuracy:.4f}" for accuracy in accuracies) + (f", {failed} failed" if failed else "")
    trainable = int(runs[0].plan["parameters"]["trainable"])
    seconds = mean(float(record.metrics["seconds"]["fit"]) for record in runs)
    return f"| {preset} | {mean(accuracies):.4f}{spread} | {each} | {trainable:,} | {duration(seconds)} |\n"


if __name__ == "__main__":
    raise SystemExit(main())
