"""`graft soup RUNS…`: averages the weights of fine-tuned networks (Wortsman et al. 2022, "Model soups").

uniform: the plain mean of all networks. greedy: networks are added in descending order of their validation figure, if
they do not make the average worse on validation. The test part is only evaluated with --test, once, at the end.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.commands.own_code import add_import_code
from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.config.figures import FIGURES, LOSS, Figure, headline, ranking
from graft.page.words import measured

if TYPE_CHECKING:
    from graft.weights.judge import Judge
    from graft.weights.members import Member

NAME = "soup"
HELP = "average the weights of runs, all of them or those that help on validation"
OUTPUT = "outputs/soup"
METRICS = tuple(dict.fromkeys(figure.name for figures in FIGURES.values() for figure in (*figures, LOSS)))

Chosen = tuple[int, ...]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs' folders, or a sweep's folder for all its runs")
    parser.add_argument("--method", choices=("greedy", "uniform"), default="greedy", help="greedy (default) or uniform")
    add_metric(parser, "the figure that greedy compares on validation")
    add_evaluation(parser, OUTPUT)


def add_metric(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --metric, with its purpose for the help text."""
    headlines = ", ".join(f"{headline(kind).name} where data.task={kind.value}" for kind in FIGURES)
    parser.add_argument("--metric", choices=METRICS, metavar="NAME", help=f"{what}: loss, or a figure ({headlines})")


def chosen_metric(choice: str | None, task: TaskKind) -> Figure:
    """The figure with this name, or the task's headline figure.

    Raises:
        InputError: the task has no such figure.
    """

    figures = {figure.name: figure for figure in (*FIGURES[task], LOSS)}
    if choice is not None and choice not in figures:
        raise InputError(
            f"--metric: expected one of {', '.join(figures)} for networks of data.task={task.value}, received"
            f" {choice!r}; try --metric {headline(task).name}"
        )
    return figures[choice] if choice else headline(task)


def add_evaluation(parser: argparse.ArgumentParser, output: str) -> None:
    """Adds the options of the commands that evaluate averages and write one of them."""
    parser.add_argument("--output", default=output, help=f"the folder to write, which must not exist yet ({output})")
    parser.add_argument("--test", action="store_true", help="evaluate the result on the test part too, once")
    add_import_code(parser)
    parser.add_argument(
        "--bn-images", type=int, metavar="N", help="batch-norm statistics from this many training images (all)"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1 …")


def run(args: argparse.Namespace) -> int:
    from graft.commands.destination import folder_to_make
    from graft.inference.classify import find_device
    from graft.weights.combine_write import write_combined
    from graft.weights.judge import Judge
    from graft.weights.members import open_members, shared_data, shared_trunk

    output = folder_to_make("--output", args.output)
    device = find_device(args.device)
    members = open_members(args.runs, import_code=args.import_code)
    if len(members) < 2:
        raise InputError(f"expected two runs or more, received {members[0].name} alone; try a sweep's folder")
    metric = chosen_metric(args.metric, members[0].opened.task.kind)
    data, seed = shared_data(members, import_code=args.import_code)
    judge = Judge(
        data, members[0].opened, seed=seed, device=device, head=shared_trunk(members),
        bn_images=args.bn_images,
    )  # fmt: skip
    if args.test:
        judge.check_part("test", "--test")
    soup = cook(members, judge, method=args.method, metric=metric, say=print)
    command = shlex.join(["graft", "soup", *args.runs, "--method", args.method, "--metric", metric.name])
    write_combined(
        output, members, soup.weights, judge, command=command, record=soup.record(members), test=args.test,
        base=soup.best, say=print,
    )  # fmt: skip
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Soup:
    """The chosen members, and how they were chosen."""

    method: str
    metric: str
    chosen: Chosen
    best: int
    """Index of the best member on validation."""
    figures: tuple[dict[str, float], ...]
    """The figures of each member on validation."""
    trials: tuple[tuple[Chosen, float], ...]
    """The members of each average that greedy tried, and its figure on validation."""

    @property
    def weights(self) -> tuple[float, ...]:
        return tuple((place in self.chosen) / len(self.chosen) for place in range(len(self.figures)))

    def record(self, members: Sequence[Member]) -> dict[str, Any]:
        return {
            "method": f"{self.method} soup",
            "metric": f"val/{self.metric}",
            "trials": [{"members": list(chosen), f"val/{self.metric}": value} for chosen, value in self.trials],
            "members": [
                {
                    "run": member.name,
                    "sha256": member.opened.record["weights"]["sha256"],
                    "weight": weight,
                    **{f"val/{name}": value for name, value in figures.items()},
                }
                for member, weight, figures in zip(members, self.weights, self.figures, strict=True)
            ],
        }


def cook(members: Sequence[Member], judge: Judge, *, method: str, metric: Figure, say: Callable[[str], None]) -> Soup:
    """Chooses the members of a soup. The members' modules do not change, except for their device.

    Raises:
        InputError: the figure is undefined on validation for some member.
    """
    from graft.weights.combine_write import Mixer

    alone: list[dict[str, float]] = []
    for member in members:
        alone.append(judge.predict(member.opened.module).figures())
        say(f"val/{metric.name} {measured(alone[-1][metric.name], 4)}  {member.name}")
    sign = -1 if metric.falls else 1
    order = ranking([figures[metric.name] for figures in alone], metric.direction)
    if len(order) < len(members):
        unknown = [member.name for place, member in enumerate(members) if place not in order]
        raise InputError(
            f"--metric: expected a figure that every network has on validation, received {metric.name}, which is"
            f" undefined for {unknown[0]}; try --metric loss"
        )
    mixer = Mixer(members, judge)

    def score(chosen: Chosen) -> float:
        value = judge.predict(mixer.equally(chosen)).figures()[metric.name]
        say(f"val/{metric.name} {measured(value, 4)}  of {', '.join(members[place].name for place in chosen)} together")
        return sign * value

    if method == "uniform":
        chosen: Chosen = tuple(range(len(members)))
        trials: list[tuple[Chosen, float]] = []
    else:
        chosen, trials = greedy(order, sign * alone[order[0]][metric.name], score)
    return Soup(
        method=method, metric=metric.name, chosen=chosen, best=order[0], figures=tuple(alone),
        trials=tuple((tried, sign * value) for tried, value in trials),
    )  # fmt: skip


def greedy(
    order: Sequence[int], best: float, score: Callable[[Chosen], float]
) -> tuple[Chosen, list[tuple[Chosen, float]]]:
    """The greedy recipe: adds each member, in descending order, if the score of the average does not fall.

    Args:
        order: indices of the members, the best first. The first one is always chosen.
        best: the score of the first one; higher is better.
        score: the score of the plain mean of the members with these indices.

    Returns:
        The chosen indices, and each attempt with its score.

    Example:
        >>> greedy([2, 0, 1], 0.5, lambda chosen: 0.6 if 0 in chosen and 1 not in chosen else 0.4)
        ((2, 0), [((2, 0), 0.6), ((2, 0, 1), 0.4)])
    """
    chosen, trials = (order[0],), list[tuple[Chosen, float]]()
    for place in order[1:]:
        tried = (*chosen, place)
        value = score(tried)
        trials.append((tried, value))
        if value >= best:
            chosen, best = tried, value
    return chosen, trials
