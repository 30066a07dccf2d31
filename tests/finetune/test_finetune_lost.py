"""What a collective says when its others are gone is told as that; other errors stay what they are."""

import pytest
from torch import distributed

from graft.config.faults import RunFailed
from graft.finetune.callbacks import explain_lost_process
from graft.finetune.checkpoint import FOLDER, LAST

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:1234"


def broken(folder, error):
    with explain_lost_process(folder):
        raise error


@pytest.mark.parametrize(
    "error", [RuntimeError(GLOO), distributed.DistBackendError("NCCL"), distributed.DistNetworkError()]
)
def test_a_lost_process_is_told_with_what_is_kept(tmp_path, error):
    with pytest.raises(RunFailed, match=r"another process of this run was lost.*nothing had been saved yet"):
        broken(tmp_path, error)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / LAST).touch()
    with pytest.raises(RunFailed, match=f"{LAST} holds everything up to here, and the same command goes on"):
        broken(tmp_path, error)


def test_other_errors_are_not_taken_for_it(tmp_path):
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        broken(tmp_path, RuntimeError("shapes differ"))
