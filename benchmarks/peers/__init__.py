"""The peers, each in a process of its own: `python -m benchmarks.peers NAME TASK OUTCOME`.

Each trains what a Task says the way its own documentation does it, and says where that leaves its documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from graft.config.faults import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Where a peer's training stands, and what it needs beyond graft's own packages."""

    module: str
    text: str
    packages: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ("torchvision", "timm")
    """Whose models it takes."""


PEERS = {
    "tutorial": Peer(module="benchmarks.peers.tutorial", text="the loop of PyTorch's transfer-learning tutorial"),
    "optimised": Peer(module="benchmarks.peers.optimised", text="a hand-written loop that wastes little"),
    "timm": Peer(
        module="benchmarks.peers.timm_pieces", text="timm's train.py, of its public pieces", libraries=("timm",)
    ),
    "fastai": Peer(module="benchmarks.peers.fastai_learner", text="fastai's Learner", packages=("fastai",)),
    "huggingface": Peer(
        module="benchmarks.peers.huggingface",
        text="Hugging Face's Trainer",
        packages=("transformers", "accelerate"),
    ),
    "keras": Peer(module="benchmarks.peers.keras_fit", text="Keras 3's fit on torch", packages=("keras",)),
}  # fmt: skip


def chosen(names: str, library: str) -> list[str]:
    """The peers of a list divided by commas, or all that take the library's models.

    Raises:
        InputError: an unknown one, one that does not take them, or one whose package is not installed.
    """
    able = [name for name, peer in PEERS.items() if library in peer.libraries]
    wanted = able if names == "all" else [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in able:
            raise InputError(f"--peers: expected some of {', '.join(able)}, received {name!r}; try --peers all")
        missing = [package for package in PEERS[name].packages if find_spec(package) is None]
        if missing:
            others = [other for other in able if all(find_spec(package) for package in PEERS[other].packages)]
            raise InputError(
                f"--peers: {name} needs the package {missing[0]}, which is not installed; try pip install"
                f" 'graft-transfer[bench]', or --peers {','.join(others)}"
            )
    return wanted
