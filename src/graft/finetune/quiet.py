"""What Lightning and torchmetrics say that tells a person nothing here; each is named, all others are shown."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager

MESSAGES = (
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen stages are, on purpose
    r"The '\w+' does not have many workers",  # data.num_workers chooses for the machine
    r"Consider setting `persistent_workers=True`",
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # rows are written by epoch
    r"Checkpoint directory .* exists and is not empty",
    r"No positive samples in targets",  # a small validation part may lack a class
    r"No negative samples in targets",
    r"Average precision score for one or more classes was `nan`",
    r".*Ignoring these classes in macro-average",
    r"find_unused_parameters=True was specified in DDP constructor",  # the last phase may train everything
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    r"The `srun` command is available on your system",  # a run on the login node is meant
    r"Experiment logs directory .* exists and is not empty",
)


@contextmanager
def quiet_lightning() -> Generator[None]:
    """Within it, Lightning's banners and the messages above are not shown."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in MESSAGES:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
