"""Trainings that are watched step by step: `python -m graft.benchmark.steps NAME TASK`, which `Stepwise` runs."""

from __future__ import annotations

from graft.benchmark.peers import PEERS

MODULES = {
    **{name: peer.module for name, peer in PEERS.items()},
    "graft": "graft.benchmark.steps.by_graft",
    "bare": "graft.benchmark.steps.bare",
}
