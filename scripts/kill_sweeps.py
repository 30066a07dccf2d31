"""Kills a sweep's workers with SIGKILL all the while, and counts what was lost, what was done twice and who died of it.

    python scripts/kill_sweeps.py                                    # 500 trials, 8 workers, the journal
    python scripts/kill_sweeps.py --store sqlite                     # exit code 1 if anything went wrong
    python scripts/kill_sweeps.py --store postgresql                 # a server of its own, from Debian's packages
    python scripts/kill_sweeps.py --store postgresql://me@host/name  # one that there is

Every worker is graft's own sweep (`conduct`) on one study in one folder. Its trials write a figure and do nothing else,
so that beginnings and ends of trials meet as often as they can. Workers are processes, forked from this one, which has
imported everything; whenever one is killed, after some trials more are done, another takes its place.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from hydra.core.override_parser.overrides_parser import OverridesParser  # noqa: E402

from graft.config.faults import InputError  # noqa: E402
from graft.sweep.attempt import Claim, Ended  # noqa: E402
from graft.sweep.conduct import conduct  # noqa: E402
from graft.sweep.record import COMPLETE, Objective, StudyRecord  # noqa: E402
from graft.sweep.space import read_space  # noqa: E402
from graft.sweep.study import read_study  # noqa: E402
from graft.sweep.sweep_settings import SweepSettings  # noqa: E402
from graft.system.locks import FileLock  # noqa: E402

FORK = multiprocessing.get_context("fork")
DRIVER = "postgresql+psycopg"
COUNTS = ("lost", "done twice", "under two workers at once", "dead of an error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="journal", help="journal, sqlite, postgresql, or a database's URL")
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--workers", type=int, default=8, help="at once")
    parser.add_argument("--every", type=float, default=5, help="trials between two kills, on average")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, database(given.store, Path(place)) as url:
        sweep = Sweep(Path(place) / "sweep", given.trials, url)
        began = time.monotonic()
        kills, deaths = sweep.kill(given.workers, given.every, random.Random(given.seed))
        counts = sweep.count(read_study(sweep.folder), deaths)
        seconds = time.monotonic() - began
    print(f"{given.trials} trials, {given.workers} workers, {kills} of them killed, in {seconds:.0f} s ({given.store})")
    for what in COUNTS:
        print(f"{what:<28}{counts[what]}")
    raise SystemExit(1 if counts.total() else 0)


class Sweep:
    """A grid of trials that do nothing."""

    def __init__(self, folder: Path, trials: int, url: str | None) -> None:
        self.folder, self.trials = folder, trials
        self.progress = folder / "progress"
        self.settings = SweepSettings(
            objectives=(Objective(metric="loss", direction="min"),), storage=url, max_interruptions=trials
        )
        self.space = read_space({}, [f"x=range(0,{trials})"], OverridesParser.create())
        folder.mkdir()
        self.progress.touch()

    def work(self) -> None:
        """A worker, to the sweep's end."""
        with open(self.folder / "output.log", "a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        conduct(self.folder, self.settings, self.space, self.launch, slots=1, say=str)

    def launch(self, claims: Sequence[Claim]) -> Iterator[tuple[Claim, Ended]]:
        """A trial: its figure. Whoever finds it under way, or done already, notes that down."""
        for claim in claims:
            claim.folder.mkdir(exist_ok=True)
            lock, done = FileLock(claim.folder / "at-work"), claim.folder / "done"
            if not lock.try_acquire():
                self.note("under two workers at once")
                lock.acquire()
            if done.exists():
                self.note("done twice")
            (claim.folder / "metrics.json").write_text(json.dumps({"loss": float(claim.choices["x"])}))
            done.touch()
            with open(self.progress, "ab") as file:
                file.write(b".")
            lock.release()
            yield claim, Ended()

    def note(self, what: str) -> None:
        with open(self.folder / "notes.txt", "a", encoding="utf-8") as file:
            file.write(f"{what}\n")

    def kill(self, workers: int, every: float, moments: random.Random) -> tuple[int, int]:
        """Runs it under fire; how many workers were killed, and how many have died of something else."""
        kills = deaths = 0
        alive = [self.start() for _ in range(workers)]
        due = moments.expovariate(1 / every)
        while True:
            time.sleep(moments.random() / 50)
            ended = [worker for worker in alive if worker.exitcode is not None]
            deaths += sum(worker.exitcode != 0 for worker in ended)
            alive = [worker for worker in alive if worker not in ended]
            if any(worker.exitcode == 0 for worker in ended) or deaths > workers:
                break  # for who ends well, there is nothing left to do
            alive += [self.start() for _ in range(workers - len(alive))]
            done = self.progress.stat().st_size
            if done < due:
                continue
            due = done + moments.expovariate(1 / every)
            victim = alive.pop(moments.randrange(len(alive)))
            victim.kill()
            victim.join()
            kills += victim.exitcode == -signal.SIGKILL
            alive.append(self.start())
        for worker in alive:
            worker.join()
        deaths += sum(worker.exitcode != 0 for worker in alive)
        if deaths:
            print((self.folder / "output.log").read_text()[-3000:], file=sys.stderr)
        return kills, deaths

    def start(self) -> ForkProcess:
        worker = FORK.Process(target=self.work)
        worker.start()
        return worker

    def count(self, study: StudyRecord, deaths: int) -> Counter[str]:
        """What went wrong, by kind."""
        notes = self.folder / "notes.txt"
        counts = Counter(notes.read_text(encoding="utf-8").splitlines() if notes.exists() else ())
        complete = {
            int(trial.choices["x"])
            for trial in study.trials
            if trial.state == COMPLETE and trial.values == (float(trial.choices["x"]),)
        }
        counts["lost"] = self.trials - len(complete)
        counts["done twice"] += len(study.trials) - len({trial.choices["x"] for trial in study.trials})
        counts["dead of an error"] = deaths
        return counts


@contextmanager
def database(store: str, place: Path) -> Generator[str | None]:
    """The URL of the store; None: the journal."""
    if store == "journal":
        yield None
    elif store == "sqlite":
        yield f"sqlite:///{place / 'study.db'}"
    elif store == "postgresql":
        with server(place / "postgresql") as socket:
            yield f"{DRIVER}://{owner()}@/postgres?host={socket}"
    else:
        yield store


@contextmanager
def server(place: Path) -> Generator[Path]:
    """A PostgreSQL of its own, on a socket in a folder; as root it installs the package where that is missing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        words = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends", "postgresql"]
        if os.getuid() or not shutil.which("apt-get"):
            raise InputError(f"--store postgresql: expected its server, received none; try {' '.join(words)} as root")
        subprocess.run(words, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdout=sys.stderr, check=True)
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    programs = found[-1].parent
    place.mkdir()
    place.parent.chmod(0o755)
    user = pwd.getpwnam(owner())
    os.chown(place, user.pw_uid, user.pw_gid)
    data, options = place / "data", f"-k {place} -c listen_addresses='' -c max_connections=200"

    def run(*words: str | Path) -> None:
        subprocess.run(words, user=user.pw_uid, group=user.pw_gid, cwd=place, stdout=sys.stderr, check=True)

    run(programs / "initdb", "-D", data, "--auth=trust")
    run(programs / "pg_ctl", "-D", data, "-w", "-l", place / "log", "-o", options, "start")
    try:
        yield place
    finally:
        run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")


def owner() -> str:
    """Whose the server is: it does not run as root."""
    return "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name


if __name__ == "__main__":
    main()
