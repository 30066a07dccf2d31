"""A linear head whose penalty is chosen by the validation images, or by folds of the training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graft.heads.rows import Features, Head, logits_of
from graft.heads.solve import PENALTIES, Point, solve
from graft.tasks.task import Criterion

FEW = 50
"""Validation images below which folds of the training images choose the penalty."""
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Examples:
    """Features and what they should give.

    Attributes:
        image_N: which image each row is a view of; None: each row is an image.
        weight_N: what each row weighs; None: all the same.
        group_N: a number for each row, the same for images that one fold must hold; None: each image is its own.
    """

    features_ND: Features
    target: Tensor
    image_N: Tensor | None = None
    weight_N: Tensor | None = None
    group_N: Tensor | None = None

    def __len__(self) -> int:
        return len(self.target)

    @property
    def images(self) -> int:
        return len(self) if self.image_N is None else len(self.image_N.unique())

    @property
    def groups(self) -> int:
        """Sets of images of which none is parted."""
        return self.images if self.group_N is None else len(self.group_N.unique())


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How strongly a head is held back, and how that was found."""

    path: tuple[Point, ...]
    """From the strongest penalty to the weakest that was tried; `loss` is that of images the head was not solved on."""
    chosen: int
    """Its place on the path."""
    complete: bool
    """Whether every penalty was tried; else the weaker ones were getting worse."""
    folds: int
    """Of the training images, that chose the penalty; 0: the validation images did."""
    refit: bool
    """Whether the head was found again on training and validation images."""

    @property
    def penalty(self) -> float:
        return self.path[self.chosen].penalty

    @property
    def loss(self) -> float:
        """Of images that the head was not solved on, with the chosen penalty."""
        return self.path[self.chosen].loss

    @property
    def at_end(self) -> bool:
        """Whether the strongest or the weakest penalty of all was the best: beyond it there may be a better one."""
        ends = {0, len(self.path) - 1} if self.complete else {0}
        return len(self.path) > 1 and self.chosen in ends


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadChoice(Choice):
    """A solved head, and how its penalty was found."""

    head: Head


def choose_head(
    train: Examples,
    val: Examples,
    criterion: Criterion,
    outputs: int,
    *,
    refit: bool = False,
    penalties: Sequence[float] = PENALTIES,
) -> HeadChoice:
    """The head whose penalty has the lowest loss on the validation images, or on folds where they are few.

    Args:
        criterion: what is minimised, and what penalties are judged by.
        outputs: K, of the head.
        refit: solve again on training and validation images together, under the penalty that was chosen: each image
            is pulled at by the penalty as before.

    Raises:
        ValueError: there is nothing to solve, or numbers are not finite.
    """
    folds = 0 if val.images >= FEW else min(FOLDS, train.groups)
    if folds > 1:
        path = _path_over_folds(train, criterion, outputs, penalties, folds)
        chosen = min(range(len(path)), key=lambda place: (path[place].loss, -place))
        head = _solved(train, criterion, outputs, penalties[: chosen + 1])
        complete = len(path) == len(penalties)
    else:
        solution = solve(
            train.features_ND,
            criterion.convex(train.target, outputs, train.weight_N),
            validation=lambda head: _loss(head, val, criterion),
            penalties=penalties,
        )
        head, path, chosen, complete = solution.head, solution.path, solution.chosen, solution.complete
    if refit:
        both = _joined(train, val)
        share = len(train) / len(both)
        head = _solved(both, criterion, outputs, [penalty * share for penalty in penalties[: chosen + 1]])
    return HeadChoice(
        head=head, path=tuple(path), chosen=chosen, complete=complete, folds=folds if folds > 1 else 0, refit=refit
    )


def loss_of_all(train: Examples, val: Examples, criterion: Criterion, outputs: int, choice: Choice) -> float:
    """Mean loss over training and validation images, each by a head that was not solved on it, with the penalty chosen.

    What heads on other features are compared by: of more images than the validation part alone, so by less chance.
    """
    if choice.folds or train.groups < 2:
        return choice.loss
    penalties = [point.penalty for point in choice.path[max(choice.chosen - 1, 0) : choice.chosen + 1]]
    folds = _path_over_folds(train, criterion, outputs, penalties, min(FOLDS, train.groups))[-1].loss
    return (folds * train.images + choice.loss * val.images) / (train.images + val.images)


def _solved(examples: Examples, criterion: Criterion, outputs: int, penalties: Sequence[float]) -> Head:
    """Of the weakest of these penalties, by way of the stronger ones."""
    loss = criterion.convex(examples.target, outputs, examples.weight_N)
    return solve(examples.features_ND, loss, penalties=penalties).head


def _loss(head: Head, examples: Examples, criterion: Criterion) -> float:
    return mean_loss(logits_of(head, examples.features_ND), examples, criterion)


def mean_loss(logits_NK: Tensor, examples: Examples, criterion: Criterion) -> float:
    """Of float64 logits."""
    return float(criterion(logits_NK, _like(examples.target)))


def _like(target: Tensor) -> Tensor:
    """Probabilities and numbers in the logits' precision; classes as they are."""
    return target.double() if target.is_floating_point() else target


def _path_over_folds(
    train: Examples, criterion: Criterion, outputs: int, penalties: Sequence[float], folds: int
) -> list[Point]:
    """Each penalty's mean loss over the images of every fold, of heads that were solved on the other folds."""
    paths: list[list[Point]] = []
    counts: list[int] = []
    for inside, outside in folds_of(train, folds):
        loss = criterion.convex(inside.target, outputs, inside.weight_N)

        def held_out(head: Head, outside: Examples = outside) -> float:
            return _loss(head, outside, criterion)

        paths.append(list(solve(inside.features_ND, loss, validation=held_out, penalties=penalties, exact=False).path))
        counts.append(len(outside))
    length = min(len(path) for path in paths)
    return [
        Point(
            penalty=penalties[place],
            loss=sum(path[place].loss * count for path, count in zip(paths, counts, strict=True)) / sum(counts),
            train_loss=sum(path[place].train_loss for path in paths) / folds,
            steps=sum(path[place].steps for path in paths),
        )
        for place in range(length)
    ]


def folds_of(train: Examples, folds: int) -> list[tuple[Examples, Examples]]:
    """The images outside each fold, and those inside it; all views of an image and all images of a group are
    together."""
    fold_N = _folds(train, folds)
    return [(_chosen(train, fold_N != fold), _chosen(train, fold_N == fold)) for fold in range(folds)]


def _folds(train: Examples, folds: int) -> Tensor:
    """The fold of each row: all views of an image and all images of a group are in one, and each has nearly the same
    share of every class."""
    together_N = train.group_N if train.group_N is not None else train.image_N
    if together_N is None:
        together_N = torch.arange(len(train))
    classes_N = train.target if train.target.ndim == 1 else train.target.argmax(1)
    order = torch.argsort(classes_N, stable=True)  # neighbours in it are of one class, and go to different folds
    fold_of: dict[int, int] = {}
    for number in together_N[order].tolist():
        fold_of.setdefault(number, len(fold_of) % folds)
    return torch.tensor([fold_of[number] for number in together_N.tolist()])


def _chosen(examples: Examples, rows_N: Tensor) -> Examples:
    weight_N = None if examples.weight_N is None else examples.weight_N[rows_N]
    return Examples(examples.features_ND[:][rows_N], examples.target[rows_N], None, weight_N)


def _joined(train: Examples, val: Examples) -> Examples:
    features_ND = torch.cat([train.features_ND[:], val.features_ND[:]])
    weights = [
        torch.ones(len(part), dtype=torch.float64) if part.weight_N is None else part.weight_N for part in (train, val)
    ]
    weight_N = None if train.weight_N is None and val.weight_N is None else torch.cat(weights)
    return Examples(features_ND, torch.cat([train.target, val.target]), None, weight_N)
