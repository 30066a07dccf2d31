"""`graft train [group=option] [key=value] …`: trains a network from a donor and images (see --help).

`python train.py` in the repository is the same program. Hydra parses the command line, so Python runs this module as a
program (`python -m graft.commands.train`), again for each process of a distributed training.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode

from graft.config.command_line import check_command_line
from graft.config.compose import Composed, parse, register
from graft.config.data_kind import with_data_kind
from graft.config.examples import command_to_go_on
from graft.config.faults import FORESEEN, InputError, reason_of, wants_traceback
from graft.config.help import help_text
from graft.config.own_configs import conf_folder
from graft.config.program import program
from graft.sweep.job import ALL_ALIKE, STAYS, check_sweep, trial_of_this_job
from graft.system.processes import is_first
from graft.system.stopping import Stopped, StopSignals
from graft.system.terminal import accept_every_letter, printable


def job(cfg: Composed) -> float | None:
    """One run. Hydra calls it once, or with -m once for each combination.

    Args:
        cfg: the composed config.

    Returns:
        The objective, for Hydra's sweepers.
    """
    runtime = HydraConfig.get()
    folder, overrides = Path(runtime.runtime.output_dir), list(runtime.overrides.task)
    try:
        with trial_of_this_job() as trial:
            config = parse(cfg)
            in_a_sweep = runtime.mode is RunMode.MULTIRUN
            check_sweep(config.trainer, in_a_sweep)
            from graft.pipeline.inputs import shared_inputs  # imports torch and lightning
            from graft.pipeline.run import run

            further_runs = in_a_sweep or STAYS in os.environ
            with StopSignals() as signals:
                return run(config, folder, overrides, signals, trial, shared_inputs() if further_runs else None)
    except Stopped as stopped:  # not an error; it also ends a sweep
        code = _leave(stopped, folder, overrides)
    except FORESEEN as error:
        if wants_traceback(error):
            raise
        reason = reason_of(error)
        if not reason.startswith(ALL_ALIKE):  # the sweep itself reports this, once
            print(printable(reason), file=sys.stderr)
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise CompactHydraException(reason) from None  # the other runs of the sweep go on
        code = 2 if isinstance(error, InputError) else 1
    raise SystemExit(code)  # outside the handlers, which keep the run's frames alive, and so its loader's workers


def _leave(stopped: Stopped, folder: Path, overrides: list[str]) -> int:
    """Prints how to resume the run, and returns the exit code."""
    if not is_first():
        return 0  # otherwise Lightning's launcher would kill the first process before its message
    last = folder / "checkpoints" / "last.ckpt"
    state = f"{last} holds everything up to here" if last.exists() else "nothing had been trained yet"
    print(f"{stopped}; {state}; go on with\n  {command_to_go_on(overrides, folder)}", file=sys.stderr)
    return stopped.exit_code


def say_help() -> None:
    """Prints the help. Hydra could print it too, but is slow, because it reads every group several times."""
    try:
        print(help_text(conf_folder(), shlex.join(program())), flush=True)
    except BrokenPipeError:  # `--help | head`: the reader has closed the pipe, so nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    accept_every_letter()
    if {"--help", "-h"} & set(sys.argv[1:]):
        say_help()
        return
    register()
    sys.argv[1:] = with_data_kind(sys.argv[1:])
    if faults := check_command_line(sys.argv[1:], conf_folder()):
        print(printable("\n".join(map(str, faults))), file=sys.stderr)
        raise SystemExit(2)
    hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(job)()


if __name__ == "__main__":
    main()
