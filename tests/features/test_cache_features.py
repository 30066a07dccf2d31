"""Features kept on disk: the same training as without them, and never another prefix's or another image's features."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from graft.config.choices import CacheKind
from graft.config.faults import InputError, RunFailed
from graft.config.rules_cache import cache_faults
from graft.config.schema_images import AugmentConfig, CacheConfig
from graft.data.loader import as_batched
from graft.features.cache import FeatureCache, check_cut, estimate, feature_shape, row_count
from graft.features.cache_folder import CacheFolder
from graft.features.dataset import FeatureDataset, pack, unpack
from graft.features.engine import engine
from graft.features.ingredients import Ingredients, structure_hash
from graft.models.fingerprint import fingerprint

SIDE = 16


class Pictures:
    """A part of generated images under keys (epoch, index), as a DataModule's images are."""

    def __init__(self, names: list[str], *, random: bool = False, seed: int = 0, broken: str | None = None) -> None:
        self.identities, self.random, self.seed, self.broken = names, random, seed, broken
        self.columns = {"target": torch.arange(len(names)) % 3, "index": torch.arange(len(names))}
        self.opened: list[tuple[int, int]] = []

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, Any]:
        epoch, index = key[:2]
        self.opened.append((epoch, index))
        name = self.identities[index]
        if name == self.broken:
            raise RunFailed(f"{name}: gone")
        image = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(sum(name.encode())))
        if self.random:
            noise = torch.Generator().manual_seed(hash((self.seed, epoch, index)) % 2**31)
            image = image + torch.randn(image.shape, generator=noise)
        return {"image": image, **{column: values[index] for column, values in self.columns.items()}}


def names(first: int, count: int) -> list[str]:
    return [f"image{number:03d}.png" for number in range(first, first + count)]


@pytest.fixture
def prefix() -> nn.Sequential:
    torch.manual_seed(1)
    trunk = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8)
    )
    with torch.no_grad():
        trunk(torch.randn(16, 3, SIDE, SIDE) * 2 + 1)  # running statistics that say something
    return trunk.eval()


@pytest.fixture
def parts() -> dict[str, Pictures]:
    return {"train": Pictures(names(0, 13)), "val": Pictures(names(13, 5)), "test": Pictures(names(18, 4))}


def about(prefix: nn.Module, **changes: Any) -> Ingredients:
    plain = Ingredients(
        weights=fingerprint(prefix), structure=structure_hash(prefix), network={"library": "plain", "name": "tiny"},
        cut="layer1", preprocess={"mean": [0.5], "std": [0.2], "image_size": SIDE}, dtype="float32", engine="plain",
    )  # fmt: skip
    return replace(plain, **changes)


def cache_at(path: Path, said: list[str] | None = None, **options: Any) -> FeatureCache:
    say = (said if said is not None else []).append
    return FeatureCache(CacheFolder(path, max_gb=options.pop("max_gb", 1), say=say), batch_size=4, **options)


def batches(length: int, epochs: int) -> Iterator[list[tuple[int, int]]]:
    for epoch in range(epochs):
        order = torch.randperm(length, generator=torch.Generator().manual_seed(epoch)).tolist()
        yield from ([(epoch, index) for index in order[start : start + 4]] for start in range(0, length, 4))


def train(rest: nn.Module, length: int, epochs: int, inputs: Callable[[list[tuple[int, int]]], Any]) -> list[float]:
    optimizer, losses = torch.optim.AdamW(rest.parameters(), lr=1e-2), []
    for keys in batches(length, epochs):
        features, target = inputs(keys)
        loss = cross_entropy(rest(features), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def new_rest() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize("views", [0, 3])
def test_losses_agree_with_and_without_the_cache(tmp_path: Path, prefix: nn.Module, views: int) -> None:
    pictures = Pictures(names(0, 13), random=views > 0)
    running = engine(prefix, precision=torch.float32)
    stored = cache_at(tmp_path).build(running, {"train": pictures}, about(prefix, views=views))["train"]

    def computed(keys: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        items = [pictures[key] for key in keys]
        with torch.no_grad():
            return prefix(torch.stack([item["image"] for item in items])), torch.stack([i["target"] for i in items])

    def cached(keys: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = stored.__getitems__(keys)
        return batch["features"], batch["target"]

    epochs = views or 4
    plain = train(new_rest(), 13, epochs, computed)
    assert train(new_rest(), 13, epochs, cached) == pytest.approx(plain, abs=1e-5)
    assert len(set(plain)) == len(plain)  # something is learned


def test_every_part_gets_its_own_features(tmp_path: Path, prefix: nn.Module, parts: dict[str, Pictures]) -> None:
    built = cache_at(tmp_path).build(prefix, parts, about(prefix))
    for name, pictures in parts.items():
        assert len(built[name]) == len(pictures.identities)
        assert built[name].shape == (8, 5, 5)
        for index in range(len(pictures.identities)):
            item = built[name][(7, index)]
            with torch.no_grad():
                expected = prefix(pictures[(0, index)]["image"][None])[0]
            torch.testing.assert_close(item["features"], expected)
            assert item["index"] == index
            assert item["target"] == index % 3


def test_a_loader_gets_whole_batches_in_channels_last(tmp_path: Path, prefix: nn.Module, parts: dict[str, Any]) -> None:
    stored = cache_at(tmp_path).build(prefix, parts, about(prefix))["train"]
    batched = list(DataLoader(stored, batch_sampler=list(batches(13, 1)), collate_fn=as_batched))
    assert [len(batch["features"]) for batch in batched] == [4, 4, 4, 1]
    assert batched[0]["features"].is_contiguous(memory_format=torch.channels_last)
    first = cache_at(tmp_path).build(prefix, parts, about(prefix), channels_last=False)["train"]
    item = first.__getitems__(next(batches(13, 1)))["features"]
    assert item.is_contiguous()
    assert torch.equal(item, batched[0]["features"])
    assert sorted(torch.cat([batch["index"] for batch in batched]).tolist()) == list(range(13))


def test_the_second_run_computes_nothing(tmp_path: Path, prefix: nn.Module, parts: dict[str, Pictures]) -> None:
    done: list[tuple[int, int]] = []
    first = cache_at(tmp_path, progress=lambda *told: done.append(told)).build(prefix, parts, about(prefix))
    assert done == [(4, 22), (8, 22), (12, 22), (16, 22), (20, 22), (22, 22)]
    opened = {name: len(pictures.opened) for name, pictures in parts.items()}
    again = cache_at(tmp_path).build(nn.Identity(), parts, about(prefix))
    assert {name: len(pictures.opened) for name, pictures in parts.items()} == opened
    for name, stored in first.items():
        keys = [(0, index) for index in range(len(stored))]
        assert torch.equal(stored.__getitems__(keys)["features"], again[name].__getitems__(keys)["features"])


def test_another_split_of_the_same_images_shares_the_entry(tmp_path: Path, prefix: nn.Module) -> None:
    cache_at(tmp_path).build(prefix, {"train": Pictures(names(0, 9)), "val": Pictures(names(9, 3))}, about(prefix))
    other = {"train": Pictures(names(5, 7)[::-1]), "val": Pictures(names(0, 5))}
    built = cache_at(tmp_path).build(nn.Identity(), other, about(prefix))
    assert len(list(tmp_path.iterdir())) == 1
    with torch.no_grad():
        expected = prefix(other["train"][(0, 2)]["image"][None])[0]
    torch.testing.assert_close(built["train"][(0, 2)]["features"], expected)


def test_epochs_go_round_the_views(tmp_path: Path, prefix: nn.Module) -> None:
    pictures = Pictures(names(0, 5), random=True)
    parts = {"train": pictures, "val": Pictures(names(5, 2))}
    built = cache_at(tmp_path).build(prefix, parts, about(prefix, views=3, seed=0))
    assert built["train"].views == 3
    assert built["val"].views == 1
    assert len(built["train"]) == 5
    for epoch, draw, view in [(0, 0, 0), (2, 0, 2), (3, 0, 0), (7, 0, 1), (7, 1, 2)]:
        with torch.no_grad():
            expected = prefix(pictures[(view, 4)]["image"][None])[0]
        torch.testing.assert_close(built["train"][(epoch, 4, draw)]["features"], expected)
    assert not torch.equal(built["train"][(0, 4)]["features"], built["train"][(1, 4)]["features"])


def test_random_images_without_views_are_refused(tmp_path: Path, prefix: nn.Module) -> None:
    with pytest.raises(InputError, match=r"augment=none, cache\.views=8, or cache=none"):
        cache_at(tmp_path / "cache").build(prefix, {"train": Pictures(names(0, 5), random=True)}, about(prefix))
    assert not (tmp_path / "cache").exists()


def one_bit(tensor: torch.Tensor) -> None:
    tensor.view(-1).view(torch.int32)[0] ^= 1


def test_the_key_changes_with_every_ingredient(prefix: nn.Module) -> None:
    weight, statistics, epsilon = copy.deepcopy(prefix), copy.deepcopy(prefix), copy.deepcopy(prefix)
    one_bit(weight[0].weight.data)
    one_bit(statistics[1].running_mean)
    epsilon[1].eps = 1e-3
    views = {"views": 2, "augment": {"hflip": 0.5}, "seed": 0}
    changed = [
        about(weight), about(statistics), about(epsilon),
        about(prefix, preprocess={"mean": [0.6], "std": [0.2], "image_size": SIDE}),
        about(prefix, preprocess={"mean": [0.5], "std": [0.3], "image_size": SIDE}),
        about(prefix, cut="layer2"), about(prefix, dtype="float16"), about(prefix, engine="folded, float32"),
        about(prefix, network={"library": "plain", "name": "other"}),
        about(prefix, **views), about(prefix, **{**views, "views": 3}), about(prefix, **{**views, "seed": 1}),
        about(prefix, **{**views, "augment": {"hflip": 0.1}}),
    ]  # fmt: skip
    keys = [ingredients.key("images") for ingredients in (about(prefix), *changed)] + [about(prefix).key("others")]
    assert len(set(keys)) == len(keys)


def test_the_key_sees_how_a_traced_prefix_calls_its_modules(prefix: nn.Module) -> None:
    """Two graphs on the same modules print alike."""
    mean, greatest = fx.symbolic_trace(prefix), fx.symbolic_trace(prefix)
    for traced, pooling in ((mean, torch.mean), (greatest, torch.amax)):
        (output,) = (node for node in traced.graph.nodes if node.op == "output")
        with traced.graph.inserting_before(output):
            output.args = (traced.graph.call_function(pooling, (output.args[0], [2, 3])),)
        traced.recompile()
    assert repr(mean) == repr(greatest)
    assert fingerprint(mean) == fingerprint(greatest)
    assert structure_hash(mean) != structure_hash(greatest)
    assert structure_hash(nn.Sequential(mean)) != structure_hash(nn.Sequential(greatest))


def test_the_key_stays_where_nothing_depends_on_the_change(prefix: nn.Module) -> None:
    plain = about(prefix).key("images")
    assert about(copy.deepcopy(prefix)).key("images") == plain
    assert about(prefix, seed=5, augment={"name": "none"}).key("images") == plain


def test_an_image_of_another_identity_is_computed(tmp_path: Path, prefix: nn.Module) -> None:
    cache_at(tmp_path).build(prefix, {"train": Pictures(["a 10 111", "b 10 222"])}, about(prefix))
    touched = Pictures(["a 10 111", "b 10 223"])
    cache_at(tmp_path).build(prefix, {"train": touched}, about(prefix))
    assert touched.opened
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 2e-3), ("bfloat16", 1e-2)])
def test_half_precision_halves_the_disk(
    tmp_path: Path, prefix: nn.Module, parts: dict[str, Pictures], dtype: str, tolerance: float
) -> None:
    built = cache_at(tmp_path).build(prefix, parts, about(prefix, dtype=dtype))["val"]
    features = built[(0, 1)]["features"]
    assert features.dtype == torch.float32
    with torch.no_grad():
        expected = prefix(parts["val"][(0, 1)]["image"][None])[0]
    torch.testing.assert_close(features, expected, rtol=tolerance, atol=tolerance)
    assert built.entry.tensor.element_size() == (4 if dtype == "float32" else 2)


def test_the_estimate_is_what_is_written(tmp_path: Path, prefix: nn.Module, parts: dict[str, Pictures]) -> None:
    rows = row_count(train=13, others=9, views=0)
    shape = feature_shape(copy.deepcopy(prefix).to("meta"), (3, SIDE, SIDE))
    announced = estimate(shape, rows=rows, dtype="float32")
    cache_at(tmp_path).build(prefix, parts, about(prefix))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == announced
    assert row_count(train=13, others=9, views=4) == 61


def test_the_limit_is_known_before_anything_is_computed(
    tmp_path: Path, prefix: nn.Module, parts: dict[str, Pictures]
) -> None:
    with pytest.raises(InputError, match=r"cache\.max_gb"):
        cache_at(tmp_path / "cache", max_gb=1e-6).build(prefix, parts, about(prefix))
    assert list((tmp_path / "cache").iterdir()) == []
    assert sum(len(pictures.opened) for pictures in parts.values()) == 1  # whose features show the size


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_image_is_named_and_nothing_kept(tmp_path: Path, prefix: nn.Module, num_workers: int) -> None:
    pictures = Pictures(names(0, 9), broken="image006.png")
    with pytest.raises(RunFailed) as failure:
        cache_at(tmp_path, num_workers=num_workers).build(prefix, {"train": pictures}, about(prefix))
    assert str(failure.value) == "image006.png: gone"
    assert list(tmp_path.iterdir()) == []


def test_a_prefix_that_gives_infinity_is_an_error(tmp_path: Path, prefix: nn.Module) -> None:
    with torch.no_grad():
        prefix[3].weight.mul_(1e6)
    with pytest.raises(RunFailed, match=r"image 0 of train; try cache\.dtype=bfloat16"):
        cache_at(tmp_path).build(prefix, {"train": Pictures(names(0, 5))}, about(prefix, dtype="float16"))
    assert list(tmp_path.iterdir()) == []


def test_a_prefix_with_dropout_on_is_an_error(tmp_path: Path, prefix: nn.Module) -> None:
    noisy = nn.Sequential(prefix, nn.Dropout(0.5)).train()
    noisy[0].eval()
    with pytest.raises(RunFailed, match="two answers"):
        cache_at(tmp_path).build(noisy, {"train": Pictures(names(0, 5))}, about(prefix))


def test_computing_draws_no_random_numbers(tmp_path: Path, prefix: nn.Module, parts: dict[str, Pictures]) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    cache_at(tmp_path).build(prefix, parts, about(prefix))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 2, 2), (3, 7, 5)])
def test_packing_is_undone(shape: tuple[int, ...]) -> None:
    features = torch.randn(shape)
    assert torch.equal(unpack(pack(features).contiguous()), features)


def test_check_cut() -> None:
    assert check_cut("layer3") == "layer3"
    with pytest.raises(InputError, match="freeze=backbone"):
        check_cut(None)


def cache_config(**fields: Any) -> CacheConfig:
    return CacheConfig(**{"kind": CacheKind.features, **fields})


@pytest.mark.parametrize(
    ("cache", "augment", "keys"),
    [
        (cache_config(), AugmentConfig(name="none"), []),
        (cache_config(views=8), AugmentConfig(name="light", hflip=0.5), []),
        (cache_config(kind=CacheKind.images), AugmentConfig(name="light", hflip=0.5), []),
        (cache_config(), AugmentConfig(name="rotations", quarter_turns=True), ["cache"]),
        (cache_config(views=8), AugmentConfig(name="none"), ["cache.views"]),
        (cache_config(kind=CacheKind.images, views=8), AugmentConfig(name="none"), ["cache.views"]),
        (cache_config(views=-1, max_gb=0.0), AugmentConfig(name="none"), ["cache.max_gb", "cache.views"]),
    ],
)  # fmt: skip
def test_config_faults(cache: CacheConfig, augment: AugmentConfig, keys: list[str]) -> None:
    faults = cache_faults(cache, augment)
    assert [fault.key for fault in faults] == keys
    assert all(fault.remedy for fault in faults)


def test_ten_thousand_vectors_pass_a_loader(tmp_path: Path) -> None:
    pictures = Pictures(names(0, 2000))
    vectors = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten()).eval()
    stored: FeatureDataset = cache_at(tmp_path).build(vectors, {"train": pictures}, about(vectors))["train"]
    seen = 0
    for batch in DataLoader(stored, batch_sampler=list(batches(2000, 5)), collate_fn=as_batched):
        assert batch["features"].shape[1:] == (48,)
        seen += len(batch["features"])
    assert seen == 10_000
