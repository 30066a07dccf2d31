"""What hydra/launcher=slurm is told, and the file for sbatch that comes of it; needs no SLURM."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from graft.cluster.slurm_settings import SlurmSettings, read_slurm_settings
from graft.cluster.submission import MOST, sbatch_files
from graft.config.faults import InputError
from graft.sweep.children import Prepared

CONF = Path(__file__).resolve().parents[2] / "conf" / "hydra" / "launcher" / "slurm.yaml"


def prepared(processes: int = 1, nodes: int = 1) -> Prepared:
    return Prepared(command=["python", "train.py"], folder=Path("0"), env={}, processes=processes, nodes=nodes)


def flags(text: str) -> dict[str, str]:
    lines = (line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH"))
    return {flag: value for flag, _, value in (line.partition("=") for line in lines)}


def test_the_option_has_each_key_with_its_default() -> None:
    written = OmegaConf.to_container(OmegaConf.load(CONF))
    assert isinstance(written, dict)
    assert written.pop("_target_") == "hydra_plugins.graft_launchers.SlurmLauncher"
    assert list(written) == [each.name for each in fields(SlurmSettings)]
    assert read_slurm_settings(written) == SlurmSettings()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"time_min": 0}, "time_min: expected a whole number from 1 upward, received 0; try hydra.launcher.time_min=1"),
        ({"time_min": None}, "time_min: expected a whole number from 1 upward, received None"),
        ({"gpus_per_node": 0}, "gpus_per_node: expected a whole number from 1 upward, or null, received 0"),
        ({"mem_gb": "16G"}, "mem_gb: expected gigabytes above 0, or null, received '16G'; try"),
        ({"partition": 3}, "partition: expected its name, or null, received 3; try hydra.launcher.partition=NAME"),
        ({"detach": "yes"}, "detach: expected true or false, received 'yes'; try hydra.launcher.detach=true"),
        ({"setup": "module load cuda"}, "setup: expected a list of shell commands, received 'module load cuda'"),
        ({"sbatch": {"cpus_per_task": 4}}, "received 'cpus_per_task'; try hydra.launcher.cpus_per_task=…"),
        ({"sbatch": {"nodes": 2}}, "that have no key of their own, received 'nodes'; try trainer.num_nodes=…"),
        ({"qos": "a"}, "expected a key of hydra/launcher=slurm, received 'a'; try 'hydra.launcher.sbatch={qos: a}'"),
        ({"time_min": 1, "notice_s": 60}, "notice_s: expected less than the job's time, hydra.launcher.time_min=1"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_what_to_type_instead(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as raised:
        read_slurm_settings(given)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_all_faults_are_told_together() -> None:
    with pytest.raises(InputError) as raised:
        read_slurm_settings({"time_min": -1, "detach": 1, "array_parallelism": 0})
    assert len(str(raised.value).splitlines()) == 3


def test_the_file_for_sbatch_asks_for_what_the_settings_and_the_run_say(tmp_path: Path) -> None:
    settings = read_slurm_settings({
        "partition": "gpu", "account": "lab", "time_min": 90, "gpus_per_node": 2, "cpus_per_task": 4, "mem_gb": 24,
        "array_parallelism": 5, "setup": ["module load cuda"], "sbatch": {"constraint": "a100"}, "notice_s": 300,
    })  # fmt: skip
    runs = {number: prepared(processes=2, nodes=3) for number in range(7)}
    ((text, numbers),) = sbatch_files(runs, settings, tmp_path / "sweep")
    assert numbers == list(range(7))
    found = flags(text)
    logs = f"{tmp_path}/sweep/slurm/%A_%a_0_log"
    expected = {
        "job-name": "sweep", "partition": "gpu", "account": "lab", "time": "90", "nodes": "3", "ntasks-per-node": "2",
        "gpus-per-node": "2", "cpus-per-task": "4", "mem": "24576M", "array": "0-6%5", "constraint": "a100",
        "signal": "USR2@300", "requeue": "", "open-mode": "append", "output": f"{logs}.out", "error": f"{logs}.err",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    lines = text.splitlines()
    assert lines.index("module load cuda") < next(at for at, line in enumerate(lines) if line.startswith("srun "))
    assert "--kill-on-bad-exit=1 --cpus-per-task=4" in text
    assert not (tmp_path / "sweep").exists()  # it was shown, and nothing was done


def test_one_run_is_no_array_and_many_or_unlike_ones_are_several(tmp_path: Path) -> None:
    ((text, _),) = sbatch_files({4: prepared()}, SlurmSettings(), tmp_path)
    assert "array" not in flags(text)
    runs = {number: prepared(processes=1 + number % 2) for number in range(2 * MOST + 2)}
    found = [
        (flags(text)["ntasks-per-node"], len(numbers))
        for text, numbers in sbatch_files(runs, SlurmSettings(), tmp_path)
    ]
    assert found == [("1", MOST), ("1", 1), ("2", MOST), ("2", 1)]


def test_gpus_are_one_a_process(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected one a process \(trainer.devices=2\), received 4; try .*_node=2"):
        list(sbatch_files({0: prepared(processes=2)}, SlurmSettings(gpus_per_node=4), tmp_path))
