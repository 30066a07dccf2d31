"""Processes of one training, as torchrun would start them, and a network that several train as one does."""

import os
import socket
import sys
import traceback

import torch
from torch import nn


def processes(count, work):
    """work(rank) in as many forked processes, each as torchrun would start it; their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                os.environ.update(
                    TORCHELASTIC_RUN_ID="test", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank),
                    LOCAL_RANK=str(rank), GROUP_RANK="0", WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
                )  # fmt: skip
                code = work(rank) or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def plain_network(tiny):
    """Without batch statistics and dropout, which are each process's own."""
    network = tiny.network()
    for name, module in list(network.named_modules()):
        parent = network.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.BatchNorm2d):
            setattr(parent, name.rpartition(".")[2], nn.GroupNorm(2, 4))
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    return network
