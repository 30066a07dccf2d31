"""What a run of several processes asks of the command that starts it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from omegaconf import DictConfig

from graft.config.choices import AUTO
from graft.config.faults import Fault

IN_PROCESS = "basic"
"""The choice of hydra/launcher that runs a sweep's jobs one after the other in the process that was started."""
LEDGER = "hydra_plugins.graft_sweep."
"""Where the sweepers are that keep a ledger of trials."""


def faults_of_several(cfg: DictConfig, overrides: Sequence[str], *, multirun: bool) -> Iterator[Fault]:
    """Faults of a composed config with more than one process.

    Lightning starts the further processes by repeating the command. With -m that would be the whole sweep in each of
    them. torchrun starts all processes of a command alike: each would be a worker of the sweep with trials of its own,
    waiting in its first collective for the others, which never come.
    """
    processes = cfg.trainer.devices * cfg.trainer.num_nodes
    if processes > 1 and cfg.data.batch_size == AUTO:
        yield Fault(
            key="data.batch_size",
            expected="a number with several processes, which must agree on it",
            received=AUTO,
            remedy="data.batch_size=32",
        )
    started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else None
    if started is None:
        if processes > 1 and multirun and cfg.hydra.runtime.choices["hydra/launcher"] == IN_PROCESS:
            yield Fault(
                key="trainer.devices",
                expected="1 with -m, where every further process would repeat the whole sweep",
                received=f"{cfg.trainer.devices}",
                remedy="hydra/launcher=process",
            )
        return
    if multirun and started > 1 and cfg.hydra.sweeper._target_.startswith(LEDGER):
        yield Fault(
            key="-m",
            expected="one process for the sweep, which starts those of each trial itself",
            received=f"{started} processes of torchrun's",
            remedy=f"python train.py -m hydra/launcher=process trainer=ddp trainer.devices={started} …",
        )
        return
    if processes != started:
        nodes = cfg.trainer.num_nodes
        yield Fault(
            key="trainer.devices",
            expected=f"as many processes as torchrun has started ({started})",
            received=f"{cfg.trainer.devices} on {nodes} machine{'s' if nodes > 1 else ''}",
            remedy=f"trainer=ddp trainer.devices={started // nodes}",
        )
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    if started > 1 and not any(word.startswith(f"{key}=") for word in overrides):
        yield Fault(
            key=key,
            expected="a folder by its name with torchrun, as a time differs from process to process",
            received="none",
            remedy=f"{key}=outputs/NAME",
        )
