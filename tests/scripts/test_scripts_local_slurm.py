"""scripts/local_slurm.sh where another program holds apt's lock, with an apt-get and a sleep of the test's own."""

import os
import subprocess
from pathlib import Path

import pytest

LOCKED = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (unattended-upgr)"


@pytest.mark.parametrize(
    ("word", "code", "tries"), [(LOCKED, 0, 3), ("E: Unable to locate package slurmd", 1, 1)], ids=["lock", "package"]
)
def test_apt_is_waited_for_while_its_lock_is_held(root: Path, tmp_path: Path, word: str, code: int, tries: int):
    calls = tmp_path / "calls"
    (tmp_path / "apt-get").write_text(
        f"#!/bin/sh\necho \"$@\" >> {calls}\n[ $(wc -l < {calls}) -ge 3 ] || {{ echo '{word}'; exit 100; }}\n"
    )
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    for name in ("apt-get", "sleep"):
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", f"source {root}/scripts/local_slurm.sh; apt install -y slurmd"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOCAL_SLURM": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert calls.read_text() == "install -y slurmd\n" * tries
    assert done.stderr.count("another program uses apt; waiting for it") == tries - 1
