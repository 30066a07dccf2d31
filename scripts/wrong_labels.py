"""How many wrong labels `graft audit` ranks first: python scripts/wrong_labels.py DATA… [KEY=VALUE…]

Of the training and validation images of each DATA (a folder or a CSV file), 5 % get another label at random, five times
over. Printed is the share of these images among the most doubtful 10 %. Test images are not looked at.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from graft.audit.labels import rank_labels
from graft.config.presets import composed
from graft.pipeline.inputs import SharedInputs
from graft.pipeline.probe import features_of
from graft.plan.plan import make_plan

WRONG, RANKED, SEEDS = 0.05, 0.1, 5


def main(words: list[str]) -> None:
    keys = [word for word in words if "=" in word]
    for place in (word for word in words if "=" not in word):
        config, inputs = composed([f"data.root={place}", "head=stages", "cache=features", *keys]), SharedInputs()
        table = inputs.table(config)
        plan = make_plan(config, table, lambda config=config, inputs=inputs: inputs.donor(config))
        parts = features_of(plan, inputs)
        features, truth = (torch.cat([part[at] for part in parts.values()]) for at in (0, 1))
        shares = [share(features, truth, len(table.classes), seed) for seed in range(SEEDS)]
        name = Path(place).parent.name if Path(place).is_file() else Path(place).name
        print(f"{name}: {sum(shares) / SEEDS:.3f} of {len(truth)} images' wrong labels (least {min(shares):.3f})")


def share(features_ND: torch.Tensor, truth_N: torch.Tensor, classes: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    count = round(WRONG * len(truth_N))
    wrong = torch.randperm(len(truth_N), generator=generator)[:count]
    label_N = truth_N.clone()
    label_N[wrong] = (truth_N[wrong] + 1 + torch.randint(classes - 1, (count,), generator=generator)) % classes
    first = rank_labels(features_ND, label_N, classes)[: round(RANKED * len(truth_N))]
    return len({doubt.image for doubt in first} & set(wrong.tolist())) / count


if __name__ == "__main__":
    main(sys.argv[1:])
