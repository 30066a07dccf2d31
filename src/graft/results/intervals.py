"""The headline figures of a part, each with the interval that its images leave open."""

from __future__ import annotations

from graft.results.evaluate import Floats, Interval, Ints, bootstrap

METRICS = {"accuracy": "accuracy", "f1": "macro-F1", "auroc": "AUROC"}
"""Names in metrics.json, and what people call them."""
WORK = 400_000_000  # images × classes × resamples that one interval may cost


def intervals(probabilities_NK: Floats, targets_N: Ints) -> dict[str, Interval]:
    """Each metric with its interval; fewer resamples for large parts, and no AUROC where it would take too long."""
    cells = probabilities_NK.size
    if not cells:
        return {}
    resamples = max(50, min(1000, WORK // cells))
    wanted = [name for name in METRICS if name != "auroc" or cells <= WORK // 80]
    return {name: bootstrap(probabilities_NK, targets_N, name, resamples=resamples) for name in wanted}
