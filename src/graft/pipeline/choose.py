"""Chooses a donor, an image size and a way to train within a budget of time: what `graft choose` carries out.

The next trial follows from the results so far and nothing else. So a search that was stopped goes on where it was, and
one with a larger budget repeats nothing. First come short fine-tunings of several arms, then longer ones of the best
(successive halving: Jamieson & Talwalkar 2016, arXiv:1502.07943), then changes of the best one while there is time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf

AUGMENTS = ("crops", "trivial", "none")
"""Options of the group augment that are compared."""
FINALISTS = 2
"""Donors that are fine-tuned."""
SHORT = 0.25
"""Epochs of a short trial, as a fraction of the recipe's."""
SHARE = 0.4
"""Fraction of the time left after the heads that short trials may take."""
LARGER, LARGEST = 1.25, 1.6
"""Factor by which an image size is enlarged, and the largest one altogether."""
PASSES = 4.0
"""An epoch of fine-tuning in passes over the images without gradients, until one has been timed."""
LEAST_GAIN = 0.005
"""Gain in the Brier score from longer training below which more time is not recommended."""
HEAD, TUNED = "head", "tuned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Donor:
    """A backbone at its own image size, as one pass over the images showed it."""

    backbone: str
    image_size: int
    score: float
    """Accuracy of a ridge regression on validation images and, left out one by one, training images."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is trained. `augment` and `epochs` are empty for a solved head."""

    kind: str
    backbone: str
    image_size: int
    augment: str = ""
    epochs: int = 0

    def words(self) -> list[str]:
        """Its overrides, beside those of the whole search."""
        words = [f"backbone={self.backbone}", f"data.image_size={self.image_size}"]
        if self.kind == HEAD:
            return [*words, "head=auto", "freeze=backbone"]
        augment = [f"augment={self.augment}"] if self.augment else []
        return ["experiment=finetune", *words, *augment, f"trainer.max_epochs={self.epochs}"]

    def described(self) -> str:
        what = "head=auto" if self.kind == HEAD else f"{self.epochs} epochs, augment={self.augment or 'as given'}"
        return f"{self.backbone}, {self.image_size} pixels, {what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A trial that has ended. Its figures are of the validation images; a failed trial has none."""

    trial: Trial
    folder: str
    seconds: float = 0.0
    brier: float = inf
    """Mean squared difference between probabilities and the truth, summed over classes: chosen by, as it varies less
    by chance than the accuracy of a few images."""
    accuracy: float = 0.0
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The state of a search.

    Args:
        budget: seconds for everything.
        probing: seconds that the passes took.
        donors: best first.
        epochs: number of epochs of `experiment=finetune` for these images.
        augments: options to compare; one empty word if the search's own words say how images are augmented.
        enlarges: whether larger images may be tried.
    """

    budget: float
    probing: float
    donors: Sequence[Donor]
    epochs: int
    results: Sequence[Result] = ()
    augments: Sequence[str] = AUGMENTS
    enlarges: bool = True

    @property
    def left(self) -> float:
        """Seconds of the budget that have not been used."""
        return self.budget - self.probing - sum(result.seconds for result in self.results)

    def has(self, trial: Trial) -> bool:
        return any(result.trial == trial for result in self.results)

    def ranked(self, kind: str | None = None) -> list[Result]:
        """The trials that succeeded, best first."""
        ended = [each for each in self.results if not each.failure and kind in (None, each.trial.kind)]
        return sorted(ended, key=lambda each: each.brier)

    def epoch_seconds(self, trial: Trial) -> float:
        """Seconds of an epoch: as timed with this backbone, else estimated from its pass over the images."""
        timed = [
            each.seconds / each.trial.epochs * (trial.image_size / each.trial.image_size) ** 2
            for each in self.ranked(TUNED)
            if each.trial.backbone == trial.backbone
        ]
        donor = next(donor for donor in self.donors if donor.backbone == trial.backbone)
        return max(timed) if timed else PASSES * donor.seconds * (trial.image_size / donor.image_size) ** 2

    def affords(self, trial: Trial) -> bool:
        return trial.epochs * self.epoch_seconds(trial) <= self.left


def next_trial(search: Search) -> Trial | None:
    """The trial to carry out next; None if nothing that is left to try fits into the budget."""
    if search.left <= 0:
        return None
    for stage in (_heads, _short, _whole, _further):
        for trial in stage(search):
            if not search.has(trial) and search.affords(trial):
                return trial
    return None


def _heads(search: Search) -> Iterator[Trial]:
    for donor in search.donors[:FINALISTS]:
        yield Trial(kind=HEAD, backbone=donor.backbone, image_size=donor.image_size)


def _short_epochs(search: Search) -> int:
    return max(1, ceil(SHORT * search.epochs))


def _arms(search: Search) -> Iterator[Trial]:
    """The short trials: the first two ways to augment with each donor come before the others."""
    finalists = search.donors[:FINALISTS]
    pairs = [(donor, augment) for donor in finalists for augment in search.augments[:2]]
    pairs += [(donor, augment) for augment in search.augments[2:] for donor in finalists]
    for donor, augment in pairs:
        yield Trial(
            kind=TUNED, backbone=donor.backbone, image_size=donor.image_size, augment=augment,
            epochs=_short_epochs(search),
        )  # fmt: skip


def _short(search: Search) -> Iterator[Trial]:
    """Each arm for a few epochs, as far as their share of the time goes; one of them in any case."""
    arms = list(_arms(search))
    ended = [each for each in search.results if each.trial in arms]
    heads = sum(each.seconds for each in search.results if each.trial.kind == HEAD)
    left = SHARE * (search.budget - search.probing - heads) - sum(each.seconds for each in ended)
    for arm in arms:
        if not ended or arm.epochs * search.epoch_seconds(arm) <= left:
            yield arm


def _whole(search: Search) -> Iterator[Trial]:
    """The best third of the arms for the recipe's epochs, or as many as the time allows."""
    arms, short = list(_arms(search)), _short_epochs(search)
    ended = [each.trial for each in search.ranked(TUNED) if each.trial in arms]
    for trial in ended[: ceil(len(ended) / 3)]:
        longer = [each for each in search.results if replace(each.trial, epochs=short) == trial and each.trial != trial]
        epochs = min(search.epochs, int(search.left / search.epoch_seconds(trial)))
        if not longer and epochs >= 2 * short:
            yield replace(trial, epochs=epochs)


def _further(search: Search) -> Iterator[Trial]:
    """The best fine-tuning, changed in one respect."""
    for result in search.ranked(TUNED)[:1]:
        best = result.trial
        own = next(donor.image_size for donor in search.donors if donor.backbone == best.backbone)
        larger = round(best.image_size * LARGER / 32) * 32
        if search.enlarges and larger <= own * LARGEST:
            yield replace(best, image_size=larger, epochs=min(best.epochs, search.epochs))
        if best.epochs <= 2 * search.epochs:
            yield replace(best, epochs=2 * best.epochs)
        for augment in search.augments:
            yield replace(best, augment=augment)
        for donor in search.donors:
            yield replace(best, backbone=donor.backbone, image_size=donor.image_size)


def outlook(search: Search) -> str:
    """What more time would probably bring, judged by what longer training has brought so far."""
    gains: list[float] = []
    for result in search.ranked(TUNED):
        trial = result.trial
        same = (each for each in search.ranked(TUNED) if replace(each.trial, epochs=trial.epochs) == trial)
        shorter = [each for each in same if each.trial.epochs < trial.epochs]
        if shorter:
            before = max(shorter, key=lambda each: each.trial.epochs)
            gains.append(before.brier - result.brier)
    if not gains:
        return "no fine-tuning was repeated for longer, so nothing says what more time would bring"
    mean = sum(gains) / len(gains)
    return (
        f"training for longer changed the Brier score by {-mean:+.3f} on average ({len(gains)} pairs of trials):"
        f" {'more time may still help' if mean > LEAST_GAIN else 'more time will probably bring little'}"
    )
