"""Labels that are wrong stand at the top of the list, by answers of heads that never saw them."""

from __future__ import annotations

import doctest

import pytest
import torch

from graft.audit import labels
from graft.audit.counts import cautions, counts_by_class
from graft.audit.labels import confusable, rank_labels
from graft.data.table import Sample, Table


def blobs(count: int, classes: int = 4, width: int = 20, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around a centre for each class, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % classes
    centres = 2 * torch.randn(classes, width, generator=generator)
    return centres[label] + torch.randn(count, width, generator=generator), label


@pytest.mark.parametrize("most", [4000, 100])
def test_planted_faults_come_first_with_the_right_proposal(most: int) -> None:
    features, truth = blobs(400)
    wrong = torch.randperm(400, generator=torch.Generator().manual_seed(1))[:20]
    given = truth.clone()
    given[wrong] = (truth[wrong] + 1) % 4
    doubts = rank_labels(features, given, 4, most=most)
    assert sorted(doubt.image for doubt in doubts) == list(range(400))
    first = doubts[:20]
    assert {doubt.image for doubt in first} == set(wrong.tolist())
    assert all((doubt.label, doubt.proposal) == (int(given[doubt.image]), int(truth[doubt.image])) for doubt in first)
    assert all(doubt.margin > 0 for doubt in first)
    assert [doubt.margin for doubt in doubts] == sorted((doubt.margin for doubt in doubts), reverse=True)


def test_an_image_does_not_bear_out_its_own_label() -> None:
    """More features than images, with which a head that saw them all would answer every label as it is given."""
    features, truth = blobs(60, width=200)
    given = truth.clone()
    given[7] = (truth[7] + 2) % 4
    assert rank_labels(features, given, 4)[0].image == 7


def test_classes_that_are_alike_are_counted() -> None:
    features, truth = blobs(300, classes=3)
    features[truth == 2] = features[truth == 1][: int((truth == 2).sum())] + 0.01
    pairs = confusable(rank_labels(features, truth, 3))
    assert pairs[0][:2] == (1, 2)
    assert pairs[0][2] > 50


def test_the_example_runs() -> None:
    assert doctest.testmod(labels).failed == 0


def table_of(*counts: int) -> Table:
    train = [label for label, count in enumerate(counts) for _ in range(count)]
    samples = tuple(Sample(path=f"{number}.png", label=label) for number, label in enumerate(train))
    return Table(classes=tuple("abcd"[: len(counts)]), train=samples, val=samples[:3], test=())


@pytest.mark.parametrize(
    ("counts", "beginnings"),
    [
        ((20, 20), []),
        ((20, 2), ["class b has 2 training images:", "class a has 20 training images and b has 2:"]),
        ((300, 4), ["class b has 4 training images:", "class a has 300 training images and b has 4:"]),
        ((60, 6), ["class a has 60 training images and b has 6:"]),
        ((9, 1), ["class b has 1 training image:"]),
    ],
)
def test_small_and_uneven_classes_are_named(counts: tuple[int, ...], beginnings: list[str]) -> None:
    said = list(cautions(table_of(*counts)))
    assert len(said) == len(beginnings)
    assert all(line.startswith(beginning) for line, beginning in zip(said, beginnings, strict=True))


def test_counts_are_by_class_and_part() -> None:
    assert counts_by_class(table_of(5, 2)) == {"a": {"train": 5, "val": 3}, "b": {"train": 2, "val": 0}}
