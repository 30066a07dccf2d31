"""How often the 95 % interval of a run's accuracy holds the accuracy on images that the run never saw.

python scripts/coverage.py data=csv data.root=table.csv [words of a run with a solved head …]

Many runs on a few of the images each, all on features of one pass. The truth is the accuracy on the remaining images,
which are many. Held out: half of a run's images train, and the other half gives the interval. Out of fold: all of them
are cross-validated; the truth is the mean over the folds' heads, or that of the head that is solved on all of them,
which has seen more images and is better.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.composed import composed
from graft.data.datamodule import DataModule
from graft.data.split import divide
from graft.heads.rows import Head
from graft.heads.solve import PENALTIES, solve
from graft.models.network import with_values
from graft.pipeline.candidates import candidates, columns_from
from graft.pipeline.features import compute_features
from graft.pipeline.inputs import Inputs
from graft.plan.plan import make_plan
from graft.results.proportions import wilson
from graft.tasks.convex import Softmax, one_hot
from graft.transfer import inject

RUNS, FOLDS, LEVEL = 200, 5, 0.95
IMAGES = 100
"""Of each run; few, so that the remaining images are many."""
PENALTY = 1e-4
PATH = [penalty for penalty in PENALTIES if penalty >= PENALTY]


def features_of(words: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Of every image of every part: what the last layer takes [N, D], and its class [N]."""
    config, inputs = composed(*words), Inputs()
    table = inputs.table(config)
    plan = make_plan(config, table, lambda: inputs.donor(config), words)
    network = with_values(plan.network, config.seed)
    with inputs.donor(config) as donor:
        inject(plan.ledger, donor, network.module)
    data = DataModule(
        table, config.data, config.augment, network.preprocess, seed=config.seed, cache=config.cache, fewest=plan.fewest
    )
    features = compute_features(plan, network, data)
    columns = candidates(features.source or network)[0].columns
    parts = list(features.stored[plan.cache.outputs[0].cut].values())
    return (
        torch.cat([columns_from(part.whole()[:], columns) for part in parts]),
        torch.cat([part.columns["label"] for part in parts]),
    )


def solved(features_ND: Tensor, label_N: Tensor, classes: int) -> Head:
    loss = Softmax(float(len(label_N)), one_hot(label_N, classes))
    return solve(features_ND, loss, penalties=PATH, exact=False).head


def covered(right_N: Tensor, truth: float) -> bool:
    low, high = wilson(float(right_N.double().mean()), len(right_N), LEVEL)
    return low <= truth <= high


def coverage(features_ND: Tensor, label_N: Tensor, runs: int = RUNS, images: int = IMAGES) -> dict[str, float]:
    """The share of runs whose interval holds the truth, by the way that the interval comes about."""
    classes = int(label_N.max()) + 1
    counts = {"held out": 0, "out of fold": 0, "out of fold, head of all": 0}
    for run in range(runs):
        order = torch.randperm(len(label_N), generator=torch.Generator().manual_seed(run))
        drawn, rest = order[:images], order[images:]
        x, y = features_ND[drawn], label_N[drawn]

        def right(head: Head, rows: Tensor) -> Tensor:
            return head(features_ND[rows]).argmax(1) == label_N[rows]

        half = images // 2
        head = solved(x[:half], y[:half], classes)
        counts["held out"] += covered(right(head, drawn[half:]), float(right(head, rest).double().mean()))
        fold_N = torch.tensor(divide([str(k) for k in range(images)], y.tolist(), FOLDS, run, list(range(images))))
        out_of_fold = torch.zeros(images, dtype=torch.bool)
        truths: list[float] = []
        for fold in range(FOLDS):
            inside = fold_N != fold
            head = solved(x[inside], y[inside], classes)
            out_of_fold[~inside] = right(head, drawn[~inside])
            truths.append(float(right(head, rest).double().mean()))
        whole = float(right(solved(x, y, classes), rest).double().mean())
        counts["out of fold"] += covered(out_of_fold, sum(truths) / FOLDS)
        counts["out of fold, head of all"] += covered(out_of_fold, whole)
    return {name: number / runs for name, number in counts.items()}


if __name__ == "__main__":
    features, labels = features_of(sys.argv[1:])
    for way, share in coverage(features, labels).items():
        print(f"{way}: {100 * share:.1f} % of {RUNS} runs of {IMAGES} of {len(labels)} images")
