"""Batches as training gets them: the same bits whatever assembles them; the image store; Lightning's resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from graft.config.choices import CacheKind, DataKind
from graft.config.faults import InputError, RunFailed
from graft.config.schema_images import AugmentConfig, CacheConfig, DataConfig
from graft.data.datamodule import DataModule
from graft.data.datasets import load_table
from graft.data.images import ImageFiles
from graft.data.loader import choose_workers
from graft.data.sampling import Key, keyed_randomness
from graft.data.table import Table
from graft.finetune.hardware import quiet_lightning
from graft.models.preprocess import Preprocess

PREPROCESS = Preprocess(image_size=8, crop_fraction=0.5, interpolation="bilinear", mean=(0.5,) * 3, std=(0.2,) * 3)
VARIED = AugmentConfig(name="test", hflip=0.5, vflip=0.5, quarter_turns=True, jitter=0.3)
Said = list[str]

# torch's advice where the tests run on a single core.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 7), ("val", 3)):
        for name in ("cat", "dog"):
            for number in range(count):
                path = tmp_path / "images" / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                shape = [(20, 24, 3), (24, 20, 3), (21, 33)][number % 3]  # wide, tall, grey
                Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return tmp_path / "images"


def module(
    root: Path,
    *,
    augment: AugmentConfig = VARIED,
    preprocess: Preprocess = PREPROCESS,
    seed: int = 0,
    cache: CacheConfig | None = None,
    say: Callable[[str], None] = print,
    batch_size: int = 4,
    **options: object,
) -> DataModule:
    data = DataConfig(kind=DataKind.folder, root=str(root), batch_size=batch_size, **options)
    return DataModule(load_table(data), data, augment, preprocess, seed=seed, cache=cache, say=say)


def assert_same(first: Iterable[dict[str, torch.Tensor]], second: Iterable[dict[str, torch.Tensor]]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys() == {"image", "target", "label", "index"}
        for name in one:
            assert torch.equal(one[name], other[name]), name


def test_batches_hold_what_was_promised(root):
    data = module(root)
    batches = list(data.train_dataloader())
    assert [len(batch["index"]) for batch in batches] == [4, 4, 4, 2]
    batch = batches[0]
    assert batch["image"].shape == (4, 3, 8, 8)
    assert batch["image"].dtype == torch.float32
    assert batch["image"].is_contiguous()
    assert (batch["target"].dtype, batch["index"].dtype) == (torch.int64, torch.int64)
    labels = torch.tensor([sample.label for sample in data.table.train])
    for batch in batches:
        assert torch.equal(batch["label"], labels[batch["index"]])
        assert torch.equal(batch["target"], batch["label"])
    indices = torch.cat([batch["index"] for batch in data.val_dataloader()])
    assert indices.tolist() == list(range(6))


def test_soft_targets_travel_beside_the_hard_labels(root):
    data = module(root)
    soft = tuple(dataclasses.replace(s, target=(1 - s.label * 0.7, s.label * 0.7)) for s in data.table.train)
    data.table = dataclasses.replace(data.table, train=soft)
    batch = next(iter(data.train_dataloader()))
    assert batch["target"].dtype == torch.float32
    torch.testing.assert_close(batch["target"][:, 1], batch["label"] * 0.7)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_no_bit(root, workers):
    alone, helped = module(root, num_workers=0).train_dataloader(), module(root, num_workers=workers).train_dataloader()
    for epoch in (0, 1):
        for loader in (alone, helped):
            loader.sampler.set_epoch(epoch)
        first, second = list(alone), list(helped)
        assert_same(first, second)
        assert [batch["image"].stride() for batch in first] == [batch["image"].stride() for batch in second]


def test_loading_draws_no_random_number_of_the_trainings(root):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(module(root, num_workers=0).train_dataloader())
    list(module(root, num_workers=1).val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_two_processes_together_see_the_same_images_as_one(root):
    one = module(root, batch_size=4)
    seen = {}
    for batch in one.train_dataloader():
        seen.update(zip(batch["index"].tolist(), batch["image"], strict=True))
    shared = {}
    for rank in (0, 1):
        data = module(root, batch_size=2)
        data.trainer = type("Ranked", (), {"global_rank": rank, "world_size": 2, "num_devices": 2})()
        data.trainer.strategy = type("OnCpu", (), {"root_device": torch.device("cpu")})()
        for batch in data.train_dataloader():
            assert not set(batch["index"].tolist()) & set(shared)
            shared.update(zip(batch["index"].tolist(), batch["image"], strict=True))
    assert shared.keys() == seen.keys() == set(range(14))
    assert all(torch.equal(seen[index], shared[index]) for index in seen)


def test_images_vary_with_seed_and_epoch_and_not_with_position(root):
    images = module(root).images("train", augmented=True)
    first = torch.stack([images[(0, index)]["image"] for index in range(14)])
    again = torch.stack([images[(0, index)]["image"] for index in reversed(range(14))]).flip(0)
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.stack([images[(1, index)]["image"] for index in range(14)]))
    other = module(root, seed=1).images("train", augmented=True)
    assert not torch.equal(first, torch.stack([other[(0, index)]["image"] for index in range(14)]))
    plain = module(root).images("train")
    assert torch.equal(plain[(0, 3)]["image"], plain[(5, 3)]["image"])


def test_a_batch_holds_what_each_image_alone_became(root):
    """Written in place, what is erased included: no level of 255 is the mean, 127.5."""
    data = module(root, augment=dataclasses.replace(VARIED, erase=1.0))
    images = data.images("train", augmented=True)
    batch = images.__getitems__([Key(0, index) for index in (5, 3, 11)])
    assert batch["index"].tolist() == [5, 3, 11]
    for place, index in enumerate((5, 3, 11)):
        with keyed_randomness(0, Key(0, index)):
            alone = images.transform(images.source[index])
        assert torch.equal(batch["image"][place], alone)
        assert torch.equal(batch["image"][place], images[(0, index)]["image"])
        assert (alone == 0).any()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_at_the_next_batch(root, workers):
    whole, killed, resumed = (module(root, num_workers=workers).train_dataloader() for _ in range(3))
    for loader in (whole, killed):
        loader.sampler.set_epoch(3)
    expected = list(whole)
    batches = iter(killed)
    for _ in range(2):
        next(batches)
    state = killed.state_dict()
    assert state == {"epoch": 3, "batch": 2}
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert len(resumed) == 4
    assert_same(list(resumed), expected[2:])
    resumed.sampler.set_epoch(4)
    whole.sampler.set_epoch(4)
    assert_same(list(resumed), list(whole))


@pytest.mark.parametrize("workers", [0, 1])
def test_kept_features_serve_the_epochs_they_hold_for(root, workers):
    """The same keys in the same order, from the features or from the images, and a state that either can take up."""

    class Features(torch.utils.data.Dataset):
        def __getitems__(self, keys):
            return {"features": torch.tensor([float(key[1]) for key in keys]), "index": torch.tensor(keys)[:, 1]}

    data, plain = module(root, num_workers=workers), module(root)
    data.use_stored({"deep": {"train": Features(), "val": Features()}}, lambda items: items)
    loader, images = data.train_dataloader(), plain.train_dataloader()
    assert {batch["cut"] for batch in loader} == {"deep"}, "until it is told, it serves the first that there is"
    data.serve(lambda epoch: "deep" if epoch in (0, 2) else None)
    for epoch in range(3):
        for each in (loader, images):
            each.sampler.set_epoch(epoch)
        served, expected = list(loader), list(images)
        assert [("features" in batch, "image" in batch) for batch in served] == [(epoch != 1, epoch == 1)] * 4
        assert [batch["index"].tolist() for batch in served] == [batch["index"].tolist() for batch in expected]
    loader.load_state_dict({"epoch": 2, "batch": 3})
    assert [batch["index"].tolist() for batch in loader] == [served[3]["index"].tolist()]
    assert ["features" in batch for batch in data.val_dataloader()] == [True, True]


@pytest.mark.parametrize(("at_once", "reads"), [(1, [2] * 7), (200, [2, 8, 4]), (1 << 20, [2, 12])])
def test_small_kept_batches_are_read_several_at_once(root, monkeypatch, at_once, reads):
    """Training gets them as they are; an evaluation takes what was read as one batch. (A row here has 24 bytes.)"""
    monkeypatch.setattr("graft.data.loader.READ_BYTES", at_once)
    read = []

    class Features(torch.utils.data.Dataset):
        def __getitems__(self, keys):
            read.append(len(keys))
            index = torch.tensor([key[1] for key in keys])
            return {"features": index[:, None] * torch.ones(4), "index": index}

    data, plain = module(root, batch_size=2), module(root, batch_size=2)
    data.use_stored({"deep": {"train": Features(), "val": Features()}}, lambda items: items)
    loader, images = data.train_dataloader(), plain.train_dataloader()
    served = list(loader)
    assert read == reads
    assert [batch["index"].tolist() for batch in served] == [batch["index"].tolist() for batch in images]
    for batch in served:
        assert batch["cut"] == "deep"
        assert batch["features"].equal(batch["index"][:, None] * torch.ones(4))
    loader.load_state_dict({"epoch": 0, "batch": 2})
    assert [batch["index"].tolist() for batch in loader] == [batch["index"].tolist() for batch in served[2:]]

    read.clear()
    evaluated = data.val_dataloader()
    batches = [batch["index"].tolist() for batch in evaluated]
    assert [len(batch) for batch in batches] == read
    assert [index for batch in batches for index in batch] == list(range(6))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_goes_missing_fails_the_run_by_name(root, workers):
    data = module(root, num_workers=workers)
    loader = data.train_dataloader()
    victim = root / "train" / "cat" / "2.png"
    victim.unlink()
    with pytest.raises(RunFailed) as caught:
        list(loader)
    assert str(caught.value).startswith(f"{victim} (no such file): expected an image")
    assert "Traceback" not in str(caught.value)
    with pytest.raises(RunFailed, match=r"2\.png"):
        data.images("train")[(0, 2)]


def test_workers_for_a_machine(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert choose_workers(10_000, accelerator=False) == 4
    assert choose_workers(10_000, accelerator=True) == 8
    assert choose_workers(10_000, accelerator=True, processes=8) == 2
    assert choose_workers(100, accelerator=True) == 0
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert choose_workers(10_000, accelerator=False) == 0
    assert choose_workers(10_000, accelerator=True) == 2


# --- the image store


def stored(folder: Path, **options: object) -> CacheConfig:
    return CacheConfig(kind=CacheKind.images, dir=str(folder / "cache"), **options)


@pytest.mark.parametrize("augment", [VARIED, AugmentConfig(name="crop", crop_scale=[0.2, 0.8], hflip=0.5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_stored_images_give_the_same_bits(root, tmp_path, augment, channels, monkeypatch):
    preprocess = Preprocess(
        image_size=8, crop_fraction=0.5, interpolation="bicubic", mean=(0.5,) * channels, std=(0.2,) * channels,
        channels=channels,
    )  # fmt: skip
    plain, kept = (
        module(root, augment=augment, preprocess=preprocess, channels=channels, cache=cache)
        for cache in (None, stored(tmp_path))
    )
    decoded = {part: list(plain.loader(part, train=part == "train")) for part in ("train", "val")}
    kept.prepare_data()
    monkeypatch.setattr("graft.data.images.decode", None)  # nothing is decoded any more
    for part, batches in decoded.items():
        assert_same(list(kept.loader(part, train=part == "train")), batches)


def test_the_store_is_shared_by_seeds_and_splits_and_noticed_to_be_stale(root, tmp_path):
    def entries() -> set[str]:
        return {path.name for path in (tmp_path / "cache").glob("*.graft")}

    module(root, cache=stored(tmp_path)).prepare_data()
    first = entries()
    assert len(first) == 1
    module(root, cache=stored(tmp_path), seed=5, batch_size=2).prepare_data()
    assert entries() == first
    Image.fromarray(np.zeros((20, 20, 3), dtype=np.uint8)).save(root / "train" / "cat" / "0.png")
    changed = module(root, cache=stored(tmp_path))
    changed.prepare_data()
    assert len(entries()) == 2
    assert (changed.images("train")[(0, 0)]["image"] == -2.5).all()


def test_a_damaged_store_is_told_and_made_again(root, tmp_path):
    module(root, cache=stored(tmp_path)).prepare_data()
    (entry,) = (tmp_path / "cache").glob("*.graft")
    contents = bytearray(entry.read_bytes())
    contents[-100] ^= 1
    entry.write_bytes(contents)
    said: Said = []
    again = module(root, cache=stored(tmp_path), say=said.append)
    assert_same(list(again.val_dataloader()), list(module(root).val_dataloader()))
    assert any("damaged" in line for line in said)


def test_the_store_keeps_its_limit(root, tmp_path):
    data = module(root, cache=stored(tmp_path, max_gb=1e-6))
    with pytest.raises(InputError, match=r"cache\.max_gb"):
        data.prepare_data()
    assert not list((tmp_path / "cache").glob("*.graft"))


def test_grey_images_take_one_plane(root, tmp_path):
    data = module(root, cache=stored(tmp_path))
    source = data.images("train").source
    grey = [index for index, sample in enumerate(data.table.train) if sample.path.endswith("2.png")]
    assert [planes for _, planes, _, _ in source.layout_N4.tolist()].count(1) == 4  # numbers 2 and 5 of each class
    assert source[grey[0]].shape[0] == 3
    assert torch.equal(source[grey[0]][0], source[grey[0]][2])


def test_without_a_test_part_there_is_nothing_to_test_on(root):
    assert module(root).test_dataloader() is None


def test_a_source_decodes_every_time(root):
    table: Table = module(root).table
    files = ImageFiles([sample.path for sample in table.train], 3)
    assert len(files) == 14
    assert files[0].dtype == torch.uint8


# --- under Lightning


class Recorder(lightning.LightningModule):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append((self.current_epoch, batch["index"].tolist(), batch["image"].double().sum().item()))
        return self.weight * batch["image"].mean()

    def validation_step(self, batch, _):
        assert not torch.isnan(batch["image"]).any()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(model: Recorder, data: DataModule, folder: Path, resume: Path | None = None) -> None:
    saver = lightning.pytorch.callbacks.ModelCheckpoint(
        folder, every_n_train_steps=1, save_top_k=-1, filename="{step}", enable_version_counter=False
    )
    with quiet_lightning():
        trainer = lightning.Trainer(
            max_epochs=3, accelerator="cpu", callbacks=[saver], logger=False, use_distributed_sampler=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(model, data, ckpt_path=resume, weights_only=True)


@pytest.mark.parametrize("step", [2, 4, 6])
def test_lightning_resumes_within_an_epoch_with_the_same_batches(root, tmp_path, step):
    whole = Recorder()
    fit(whole, module(root), tmp_path)
    assert [epoch for epoch, _, _ in whole.seen] == [0] * 4 + [1] * 4 + [2] * 4
    resumed = Recorder()
    checkpoint = (tmp_path / f"step={step}.ckpt").rename(tmp_path / "from.ckpt")
    fit(resumed, module(root, num_workers=1), tmp_path, checkpoint)
    assert resumed.seen == whole.seen[step:]
