"""A network small enough to read, its stages, and images whose class can be learnt."""

from types import SimpleNamespace

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from graft.config.schema import (
    CheckpointConfig,
    MethodConfig,
    OptimizerConfig,
    SchedulerConfig,
    SchedulerKind,
    TrainerConfig,
    UnfreezeConfig,
    UnfreezeKind,
)
from graft.config.values import values_of
from graft.data.loader import KeyedLoader
from graft.data.sampling import KeyedBatchSampler
from graft.finetune import fit as finetune
from graft.finetune.methods import Methods
from graft.finetune.module import FineTuning
from graft.finetune.route import Route
from graft.finetune.training_plan import Timeline, plan_training
from graft.finetune.unfreeze import make_schedule
from graft.models.stages import Stage, Stages, tensor_names
from graft.tasks.single_label import SingleLabel


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.drop(self.bn(self.conv(x)).relu())


class Tiny(nn.Module):
    """stem, layer1, layer2, layer3, head."""

    def __init__(self, classes=3, width=4):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.pos_drop = nn.Dropout(0.3)
        self.layer1 = Block(width)
        self.layer2 = Block(width)
        self.layer3 = Block(width)
        self.head_drop = nn.Dropout(0.3)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        x = self.pos_drop(self.bn1(self.conv1(x)).relu())
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.head_drop(x.mean((2, 3))))


STAGES = Stages(
    trunk=(
        Stage("stem", ("conv1", "bn1")),
        Stage("layer1", ("layer1",)),
        Stage("layer2", ("layer2",)),
        Stage("layer3", ("layer3",)),
    ),
    heads=("fc",),
)


class Images(Dataset):
    """Noise with one channel brighter: the class."""

    def __init__(self, length, classes=3, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.label = torch.arange(length) % classes
        self.image = torch.randn(length, 3, 8, 8, generator=generator)
        self.image[torch.arange(length), self.label] += 1.5

    def __len__(self):
        return len(self.label)

    def __getitem__(self, key):
        index = key[1]
        return {"image": self.image[index], "target": self.label[index], "label": self.label[index], "index": index}


class Data(lightning.LightningDataModule):
    def __init__(self, workers=0, batch_size=4, seed=0, train=26):
        super().__init__()
        self.workers, self.batch_size, self.seed = workers, batch_size, seed
        self.parts = {"train": Images(train, seed=1), "val": Images(9, seed=2), "test": Images(6, seed=3)}

    def can_train_by(self, batch_size):
        return True

    def loader(self, part):
        images = self.parts[part]
        sampler = KeyedBatchSampler(len(images), self.batch_size, seed=self.seed, shuffle=part == "train")
        workers = self.workers if part == "train" else 0
        return KeyedLoader(images, sampler, num_workers=workers, collate_fn=torch.utils.data.default_collate)

    def train_dataloader(self):
        return self.loader("train")

    def val_dataloader(self):
        return self.loader("val")

    def test_dataloader(self):
        return self.loader("test")


def network(classes=3, seed=0):
    torch.manual_seed(seed)
    return Tiny(classes)


def optimizer(**changes):
    return OptimizerConfig(**{"name": "adamw", "lr": 0.01, "weight_decay": 0.1, **changes})


def schedule(module, freeze="none", kind=UnfreezeKind.never, **changes):
    return make_schedule(
        values_of(UnfreezeConfig, {"kind": kind, **changes}, "unfreeze"), freeze, STAGES, tensor_names(module)
    )


PLANNED = {"schedule", "optimizer", "scheduler", "anchored", "freeze_bn", "on_nan", "seed"}


def tuning(module=None, freeze="none", kind=UnfreezeKind.never, unfreeze=None, **changes):
    """Of a training of two epochs over Data(); `fit` makes its plan again for the data and the trainer it is given."""
    module = network() if module is None else module
    planned = {
        "schedule": schedule(module, freeze, kind, **(unfreeze or {})),
        "optimizer": optimizer(),
        "scheduler": SchedulerConfig(kind=SchedulerKind.cosine),
        **{name: changes.pop(name) for name in PLANNED & changes.keys()},
    }
    made = FineTuning(
        module,
        plan_training(module, STAGES, Timeline(images=26, epochs=2, batch_size=4), **planned),
        changes.pop("task", SingleLabel(["a", "b", "c"])),
        loss=changes.pop("loss", None),
        methods=Methods(
            changes.pop("method", None) or MethodConfig(), module, anchored=planned.get("anchored", ()),
            teacher=changes.pop("teacher", None), head=STAGES.head,
        ),
        route=Route(
            module, STAGES, changes.pop("behind", None), fast=changes.pop("engine", False),
            precision=changes.pop("precision", "32-true"),
        ),
        shared=changes.pop("shared", None),
    )  # fmt: skip
    assert not changes, changes
    made.planned = planned
    return made


def trainer(**changes):
    return TrainerConfig(**{"max_epochs": 2, "accelerator": "cpu", "progress": False, **changes})


def plan_for(tuning, data, trainer):
    """The plan of this training with other data or another trainer."""
    timeline = Timeline(
        images=len(data.parts["train"]), epochs=trainer.max_epochs, batch_size=data.batch_size,
        accumulate=trainer.accumulate, processes=trainer.devices * trainer.num_nodes,
    )  # fmt: skip
    return plan_training(tuning.network, STAGES, timeline, **tuning.planned)


def fit(tuning, data, folder, *, trainer, **settings):
    """As a run does it: by a plan that was made for this data and this trainer."""
    tuning.plan = plan_for(tuning, data, trainer)
    return finetune.fit(tuning, data, folder, trainer=trainer, **settings)


@pytest.fixture(scope="session")
def tiny():
    return SimpleNamespace(
        Data=Data,
        Images=Images,
        stages=STAGES,
        network=network,
        optimizer=optimizer,
        schedule=schedule,
        tuning=tuning,
        fit=fit,
        plan_for=plan_for,
        trainer=trainer,
        checkpoint=CheckpointConfig,
    )
