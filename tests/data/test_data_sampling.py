"""Law 5: which samples, in which order, with which random numbers, is a function of (seed, epoch, sample) alone."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from graft.config.faults import InputError
from graft.data.sampling import Key, KeyedBatchSampler, check_batches, derive, keyed_randomness


def flat(batches: Iterable[list[Key]]) -> list[int]:
    return [key.sample for batch in batches for key in batch]


def samples(batches: list[list[Key]]) -> list[list[int]]:
    return [[key.sample for key in batch] for batch in batches]


def test_seeds_are_the_same_for_ever():
    assert derive("order", 0, 0) == 4876581156571347824
    assert derive(0, 1, 2) != derive(0, 2, 1)
    assert 0 <= derive(5) < 2**63


def test_keyed_randomness_depends_on_its_key_alone_and_leaves_no_trace():
    torch.manual_seed(1)
    expected_after = torch.rand(3)
    drawn = {}
    torch.manual_seed(1)
    for seed in (0, 1):
        for key in (Key(0, 0), Key(0, 1), Key(1, 0), Key(0, 0, 1)):
            with keyed_randomness(seed, key):
                drawn[seed, key] = torch.rand(2)
    assert torch.equal(torch.rand(3), expected_after)
    with keyed_randomness(0, Key(1, 0)):
        assert torch.equal(torch.rand(2), drawn[0, Key(1, 0)])
    assert len({tuple(values.tolist()) for values in drawn.values()}) == 8


def test_an_epoch_holds_every_sample_once_in_an_order_of_its_own():
    sampler = KeyedBatchSampler(10, 4, seed=3, shuffle=True)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert {key.epoch for batch in batches for key in batch} == {epoch}
        orders.append(flat(batches))
        assert sorted(orders[-1]) == list(range(10))
    assert orders[0] != orders[1]
    sampler.set_epoch(0)
    assert flat(sampler) == orders[0]
    assert flat(KeyedBatchSampler(10, 4, seed=4, shuffle=True)) != orders[0]


def test_without_shuffling_the_order_is_the_samples_own():
    assert samples(list(KeyedBatchSampler(5, 2))) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("length", [16, 17, 18, 19, 20, 23])
@pytest.mark.parametrize("world", [2, 4])
def test_processes_together_see_what_one_would_and_nothing_twice(length, world):
    single = KeyedBatchSampler(length, 2 * world, seed=0, shuffle=True)
    ranks = [KeyedBatchSampler(length, 2, seed=0, shuffle=True, rank=rank, world=world) for rank in range(world)]
    steps = [list(rank) for rank in ranks]
    assert {len(rank) for rank in steps} == {len(single)}
    together = [sorted(itertools.chain(*shares)) for shares in zip(*steps, strict=True)]
    assert sorted(key.sample for step in together for key in step) == list(range(length))
    assert all(share for rank in steps for share in rank)
    rest = length % (2 * world)
    if rest == 0 or rest >= world:  # else the last step takes from the one before
        assert together == [sorted(batch) for batch in single]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 11, 15, 24])
@pytest.mark.parametrize(("world", "batch_size"), [(1, 1), (4, 1), (3, 2), (2, 5)])
def test_every_sample_goes_to_one_process_once_and_none_stands_by(length, world, batch_size):
    if length < world:
        with pytest.raises(AssertionError):
            KeyedBatchSampler(length, batch_size, world=world)
        return
    shares = [list(KeyedBatchSampler(length, batch_size, rank=rank, world=world)) for rank in range(world)]
    assert sorted(itertools.chain(*map(flat, shares))) == list(range(length))
    assert all(0 < len(batch) <= batch_size + 1 for share in shares for batch in share)
    assert len({len(share) for share in shares}) == 1


@pytest.mark.parametrize(
    ("length", "batch_size", "sizes"),
    [(65, 32, [32, 31, 2]), (66, 32, [32, 32, 2]), (64, 32, [32, 32]), (4, 3, [2, 2]), (5, 2, [2, 3]), (2, 8, [2])],
)
def test_no_batch_has_one_image_where_two_are_needed(length, batch_size, sizes):
    sampler = KeyedBatchSampler(length, batch_size, fewest=2)
    assert [len(batch) for batch in sampler] == sizes
    assert len(sampler) == len(sizes)
    assert flat(sampler) == list(range(length))


def test_a_remainder_is_taken_from_as_many_steps_as_it_needs():
    shares = [list(KeyedBatchSampler(13, 3, rank=rank, world=2, fewest=2)) for rank in range(2)]
    together = [sum(map(len, step)) for step in zip(*shares, strict=True)]
    assert together == [5, 4, 4]
    assert all(len(batch) >= 2 for share in shares for batch in share)


@pytest.mark.parametrize(
    ("length", "batch_size", "world", "fewest", "remedy"),
    [
        (65, 1, 1, 2, "data.batch_size=3"),
        (64, 1, 1, 2, "data.batch_size=2"),
        (7, 1, 2, 1, "data.batch_size=2"),
        (3, 8, 2, 2, "more images, or fewer processes"),
    ],
)
def test_what_cannot_be_shared_out_is_answered(length, batch_size, world, fewest, remedy):
    with pytest.raises(InputError, match=rf"data\.batch_size={batch_size} for {length} training images.*try {remedy}"):
        check_batches(length, batch_size, world=world, fewest=fewest, why="bn trains")
    check_batches(8, 2, world=2, fewest=2)


@pytest.mark.parametrize("balanced", [False, True])
def test_a_resumed_epoch_is_the_rest_of_the_same_epoch(balanced):
    labels = [0] * 7 + [1] * 3 if balanced else None
    whole = KeyedBatchSampler(10, 3, seed=1, shuffle=True, labels=labels)
    whole.set_epoch(2)
    resumed = KeyedBatchSampler(10, 3, seed=1, shuffle=True, labels=labels)
    resumed.start_at(2, 2)
    assert len(resumed) == 4
    assert list(resumed) == list(whole)[2:]
    resumed.set_epoch(3)
    whole.set_epoch(3)
    assert list(resumed) == list(whole)


def test_balanced_draws_every_class_equally_often():
    labels = [0] * 90 + [1] * 10
    sampler = KeyedBatchSampler(100, 20, seed=0, shuffle=True, labels=labels)
    keys = list(itertools.chain(*sampler))
    drawn = Counter(labels[key.sample] for key in keys)
    assert drawn == {0: 50, 1: 50}
    assert set(Counter(key.sample for key in keys if labels[key.sample] == 1).values()) == {5}
    assert {key.draw for key in keys if labels[key.sample] == 0} == {0}
    assert len(set(keys)) == 100  # a repeated sample has a random seed of its own each time
    assert {labels[key.sample] for key in keys[:10]} == {0, 1}  # mixed
    sampler.set_epoch(1)
    next_keys = list(itertools.chain(*sampler))
    assert {key.sample for key in keys} != {key.sample for key in next_keys}


def test_balanced_gives_what_does_not_divide_to_other_classes_in_turn():
    labels = [0] * 5 + [1] * 3 + [2] * 3
    favoured = set()
    sampler = KeyedBatchSampler(11, 11, seed=0, shuffle=True, labels=labels)
    for epoch in range(12):
        sampler.set_epoch(epoch)
        counts = Counter(labels[key.sample] for batch in sampler for key in batch)
        assert sorted(counts.values()) == [3, 4, 4]
        favoured.add(min(counts, key=counts.__getitem__))
    assert favoured == {0, 1, 2}


def test_a_million_samples_are_ordered_at_once():
    indices, draws = KeyedBatchSampler(1_000_000, 32, seed=0, shuffle=True).order(0)
    assert indices.dtype == np.int64
    assert indices.sum() == 499_999_500_000
    assert not draws.any()
