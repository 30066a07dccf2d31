"""`graft interpolate DONOR RUN --alpha …`: interpolates between a donor's weights and a run's (WiSE-FT).

θ(α) = (1 − α) θ_donor + α θ_run (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"). DONOR is a run or an
exported model of the same architecture. Ideally it is a linear probe of the same donor, so that one end has a trained
head, as in LP-FT (Kumar et al. 2022). The word `donor` means the run's own donor, which has no head for the run's
classes. The run's head is then used at every α.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.commands.soup import add_evaluation, add_metric, chosen_metric
from graft.config.faults import InputError
from graft.config.figures import Figure, ranking
from graft.config.own_code import refuse_own_code
from graft.page.words import measured

if TYPE_CHECKING:
    from graft.weights.members import Member

NAME = "interpolate"
HELP = "interpolate between a donor's weights and a run's, and keep the best on validation"
OUTPUT = "outputs/interpolated"
DONOR = "donor"
ALPHAS = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "donor", metavar="DONOR", help="a run's folder (a linear probe, say), an exported model, or the word `donor`"
    )
    parser.add_argument("run", metavar="RUN", help="the fine-tuned run's folder")
    parser.add_argument("--alpha", type=_alphas, default=_alphas(ALPHAS), help=f"shares of the run ({ALPHAS})")
    add_metric(parser, "the figure to choose by on validation")
    add_evaluation(parser, OUTPUT)


def run(args: argparse.Namespace) -> int:
    from graft.commands.destination import folder_to_make
    from graft.inference.classify import find_device
    from graft.system.files import write_text
    from graft.weights.combine_curve import draw
    from graft.weights.combine_write import Mixer, write_combined
    from graft.weights.judge import Judge
    from graft.weights.members import shared_data, shared_trunk

    output, device = folder_to_make("--output", args.output), find_device(args.device)
    ends = _ends(args.donor, args.run, import_code=args.import_code)
    metric = chosen_metric(args.metric, ends[1].opened.task.kind)
    data, seed = shared_data(ends, import_code=args.import_code)
    judge = Judge(
        data, ends[1].opened, seed=seed, device=device, head=shared_trunk(ends),
        bn_images=args.bn_images,
    )  # fmt: skip
    if args.test:
        judge.check_part("test", "--test")
    mixer, rows = Mixer(ends, judge), list[dict[str, float]]()
    for alpha in args.alpha:
        rows.append({"alpha": alpha, **judge.predict(mixer.mix([1 - alpha, alpha])).figures()})
        columns = [f"val/{name} {measured(value, 4)}" for name, value in rows[-1].items() if name != "alpha"]
        print(f"alpha {alpha:<5g} " + "  ".join(columns))
    best = choose(rows, metric)
    record = {
        "method": "interpolation",
        "alpha": best["alpha"],
        "metric": f"val/{metric.name}",
        "curve": rows,
        "members": [
            {"run": end.name, "sha256": end.opened.record["weights"]["sha256"], "weight": weight}
            for end, weight in zip(ends, (1 - best["alpha"], best["alpha"]), strict=True)
        ],
    }
    command = shlex.join(["graft", "interpolate", args.donor, args.run, "--metric", metric.name])
    print(f"alpha {best['alpha']:g} is the best of {len(rows)} on validation")
    weights = (1 - best["alpha"], best["alpha"])
    write_combined(output, ends, weights, judge, command=command, record=record, base=1, test=args.test, say=print)
    write_text(output / "interpolation.csv", _csv(rows))
    draw(rows, best["alpha"], metric, output / "interpolation.png")
    return 0


def choose(rows: Sequence[dict[str, float]], metric: Figure) -> dict[str, float]:
    """The best row. Of several with an equal figure, it is the one with the lowest loss, then with α nearest to 1/2.

    Raises:
        InputError: the figure is undefined in every row.
    """
    by_middle = sorted(rows, key=lambda row: abs(row["alpha"] - 0.5))
    by_loss = [by_middle[place] for place in ranking([row["loss"] for row in by_middle], "min")]
    unknown = [row for row in by_middle if not math.isfinite(row["loss"])]
    ordered = [*by_loss, *unknown]  # sorting is stable, so the last sort has precedence
    ranked = ranking([row[metric.name] for row in ordered], metric.direction)
    if not ranked:
        raise InputError(
            f"--metric: expected a figure that is defined on validation, received {metric.name}; try --metric loss"
        )
    return ordered[ranked[0]]


def _ends(donor: str, run: str, *, import_code: bool) -> list[Member]:
    from graft.weights.members import open_members

    if donor == DONOR:
        return _from_own_donor(run, import_code=import_code)
    return open_members([donor, run], import_code=import_code)


def _from_own_donor(run: str, *, import_code: bool) -> list[Member]:
    """The network before training, and the run. Tensors that no donor filled are the run's in both."""
    from dataclasses import replace

    from graft.config.compose import stored_config
    from graft.inference.load import open_model
    from graft.models.network import network_for
    from graft.transfer import Verdict, account_donor, inject, target_of_module
    from graft.transfer.chosen import open_chosen, rules_for
    from graft.weights.members import Member, open_members

    (end,) = open_members([run], import_code=import_code)
    config = stored_config(end.run or Path(run), needed=("backbone", "donor", "head", "data"))
    if not import_code:
        named = {"backbone.target": config.backbone.target, "head.target": config.head.target}
        refuse_own_code(run, {**named, "donor.path": config.donor.path})
    network = network_for(config.network, len(end.opened.classes))
    with open_chosen(config.network) as donor:
        ledger = account_donor(
            donor, target_of_module(network.module), rules_for(config.network, network, end.opened.classes)
        )
        inject(ledger, donor, network.module)
        source = str(ledger.donor.get("source"))
        digest = ledger.donor.get("sha256")
    filled = {entry.target for entry in ledger.tensors if entry.verdict is not Verdict.initialized}
    state = network.module.state_dict()
    mixed = {name: state[name] if name in filled else value for name, value in end.state.items()}
    opened = open_model(run, import_code=import_code)
    opened.module.load_state_dict(mixed)
    record = {**opened.record, "weights": {"sha256": digest}}
    return [Member(name=source, opened=replace(opened, record=record)), end]


def _csv(rows: Sequence[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _alphas(text: str) -> list[float]:
    try:
        values = sorted({float(part) for part in text.split(",")})
    except ValueError:
        values = [math.nan]
    if not all(0 <= value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f"expected numbers from 0 to 1, joined by commas, received {text!r}")
    return values
