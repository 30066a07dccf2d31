"""The installed submitit tells the file that it would hand sbatch; one that does not is named."""

from types import SimpleNamespace

from submitit import SlurmExecutor

from graft.cluster.submitit_text import text_for_sbatch


class Executor(SlurmExecutor):
    @classmethod
    def affinity(cls):
        return 2


def test_the_installed_release_tells_the_file(tmp_path):
    executor = Executor(folder=tmp_path)
    executor.update_parameters(job_name="mine", time=7)
    lines = text_for_sbatch(executor).splitlines()
    assert lines[0] == "#!/bin/bash"
    assert {"#SBATCH --job-name=mine", "#SBATCH --time=7"} <= set(lines)
    assert any(line.startswith("srun ") for line in lines)


def test_a_release_that_tells_it_otherwise_is_named_with_what_it_is_asked_for():
    text = text_for_sbatch(SimpleNamespace(parameters={"job_name": "mine", "time": 7}))
    assert all(line.startswith("#") for line in text.splitlines())
    assert "does not tell the file that it would hand sbatch" in text
    assert '"job_name": "mine"' in text
