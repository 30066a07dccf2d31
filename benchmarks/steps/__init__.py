"""Trainings that are watched step by step: `python -m benchmarks.steps NAME TASK`, which `Stepwise` runs."""

from __future__ import annotations

from benchmarks.peers import PEERS

MODULES = {
    **{name: peer.module for name, peer in PEERS.items()},
    "graft": "benchmarks.steps.by_graft",
    "bare": "benchmarks.steps.bare",
}
