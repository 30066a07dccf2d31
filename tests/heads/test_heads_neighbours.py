"""Votes of the nearest training images."""

import torch
from sklearn.neighbors import KNeighborsClassifier

from graft.heads.neighbours import vote
from graft.heads.rows import Scaling


def test_the_nearest_are_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    train, others = torch.randn(200, 12, generator=generator) + 2, torch.randn(60, 12, generator=generator) + 2
    classes = torch.arange(200) % 4
    scaled = Scaling.of(train)
    reference = KNeighborsClassifier(1, metric="cosine").fit(scaled(train).numpy(), classes.numpy())
    assert vote(train, classes, others, 4, count=1).argmax(1).tolist() == reference.predict(scaled(others)).tolist()


def test_fewer_images_than_neighbours_all_vote():
    votes = vote(torch.tensor([[0.0, 1], [1, 0]]), torch.tensor([0, 1]), torch.tensor([[0.0, 3]]), 2)
    assert votes.shape == (1, 2)
    assert votes.argmax(1).tolist() == [0]
