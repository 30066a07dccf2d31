"""A linear head on features in memory: solved over a path of penalties, by scikit-learn's path, by AdamW's epochs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import Against, Comparison, Limit, Way, timed
from graft.system.machine import threads

REPEATS = 5
LIMIT = Limit(factor=2, faster=True)
CLASSES, SHARED = 10, 64  # directions that features have in common, as a trunk's outputs do
NOISE = 1.5
EPOCHS, BATCH = 30, 32


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=1800, help="training images (default: %(default)s)")
    parser.add_argument("--width", type=int, default=1280, help="features of each (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    import torch
    import torch.nn.functional as F
    from sklearn.linear_model import LogisticRegression
    from torch import nn

    from graft.config.schema import LossConfig
    from graft.heads.choice import Examples, choose_head
    from graft.heads.rows import Scaling
    from graft.heads.solve import PENALTIES
    from graft.tasks.single_label import CrossEntropy

    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(SHARED, args.width, generator=generator)
    centres = torch.randn(CLASSES, SHARED, generator=generator)

    def examples(count: int) -> Examples:
        target = torch.randint(CLASSES, (count,), generator=generator)
        shared = 0.6 * centres[target] + NOISE * torch.randn(count, SHARED, generator=generator)
        features = shared @ mixing / SHARED**0.5 + torch.randn(count, args.width, generator=generator)
        return Examples(F.relu(features), target)

    train, val = examples(args.rows), examples(args.rows // 6)
    x, held_out = train.features_ND[:], val.features_ND[:]
    reached: dict[str, float] = {}

    def note(name: str, logits: torch.Tensor) -> None:
        reached[name] = float((logits.argmax(1) == val.target).double().mean())

    def ours() -> None:
        with threads(args.threads):
            choice = choose_head(train, val, CrossEntropy(LossConfig()), CLASSES)
            note("ours", choice.head(held_out))

    def scikit_learn() -> None:
        """The same path, warm started, on the same scaled features."""
        with threads(args.threads):
            scaling = Scaling.of(x)
            scaled, others = scaling(x).numpy(), scaling(held_out).numpy()
            model = LogisticRegression(warm_start=True, max_iter=300)
            best = float("inf")
            for penalty in PENALTIES:
                model.set_params(C=1 / (penalty * args.rows)).fit(scaled, train.target.numpy())
                logits = torch.from_numpy(model.predict_log_proba(others))
                loss = float(F.nll_loss(logits, val.target))
                if loss < best:
                    best = loss
                    note("scikit-learn", logits)

    def by_steps() -> None:
        with threads(args.threads):
            torch.manual_seed(0)
            layer = nn.Linear(args.width, CLASSES)
            optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
            for _ in range(EPOCHS):
                for rows in torch.randperm(args.rows).split(BATCH):
                    optimizer.zero_grad()
                    F.cross_entropy(layer(x[rows]), train.target[rows]).backward()
                    optimizer.step()
            with torch.no_grad():
                note("steps", layer(held_out))

    yield Comparison(
        what=f"a head of {CLASSES} classes on {args.rows:,} x {args.width:,} features",
        ours=Way(name=f"{len(PENALTIES)} penalties solved", measure=timed(ours), reached=lambda: _of("ours", reached)),
        others=[
            Against(
                way=Way(
                    name="the same path by scikit-learn", measure=timed(scikit_learn),
                    reached=lambda: _of("scikit-learn", reached),
                ),
                limit=LIMIT,
            ),
            Against(
                way=Way(
                    name=f"{EPOCHS} epochs of AdamW at one rate", measure=timed(by_steps),
                    reached=lambda: _of("steps", reached),
                )
            ),
        ],
        warm_up=1,
    )  # fmt: skip


def _of(name: str, reached: dict[str, float]) -> dict[str, float]:
    return {"val accuracy": reached[name]}
