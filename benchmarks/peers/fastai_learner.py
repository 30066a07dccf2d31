"""fastai's Learner, as its vision tutorial uses it: a splitter for trunk and head, `freeze`, `fit_one_cycle`.

As fastai does by default, batch-norms of frozen layers go on training (`train_bn=True`). It is imported by name: the
extra `bench` alone holds it, and it has no types.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.images import last_part
from benchmarks.peers.network import is_trained, network_of
from benchmarks.peers.stopwatch import Stopwatch
from benchmarks.task import Outcome, Task


def train(task: Task, weights: Path, watch: Stopwatch) -> Outcome:
    vision: Any = import_module("fastai.vision.all")
    torch.set_num_threads(task.threads)
    loaders = vision.ImageDataLoaders.from_folder(
        task.images, train="train", valid="val", seed=task.seed, item_tfms=vision.Resize(task.image_size),
        batch_tfms=[
            *(vision.aug_transforms(size=task.image_size) if task.own_defaults else []),
            vision.Normalize.from_stats(task.mean, task.std, cuda=False),
        ],
        bs=task.batch_size, num_workers=0, device=torch.device("cpu"),
    )  # fmt: skip
    model = network_of(task, len(loaders.vocab))
    for parameter in model.parameters():
        parameter.requires_grad = True  # fastai's freeze has the word

    def groups(whole: torch.nn.Module) -> list[list[torch.nn.Parameter]]:
        named = list(whole.named_parameters())
        return [[value for name, value in named if is_trained(task, name) is trained] for trained in (False, True)]

    class Watching(vision.Callback):  # pyright: ignore[reportUntypedBaseClass]
        order = 100

        def before_train(self) -> None:
            watch.begin()

        def after_batch(self) -> None:
            if self.learn.training:
                watch.stepped()

        def after_train(self) -> None:
            watch.trained()

        def after_validate(self) -> None:
            if self.learn.training is not None and len(watch.epochs) < len(watch.training):
                watch.evaluated()

    learner = vision.Learner(
        loaders, model, loss_func=vision.CrossEntropyLossFlat(), metrics=vision.accuracy, cbs=[Watching()],
        path=weights.parent, **({"splitter": groups} if task.trains else {}),
    )  # fmt: skip
    if task.trains:
        learner.freeze()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(task.epochs, 1e-3 if task.own_defaults else task.lr)
    torch.save(model.state_dict(), weights)
    watch.saved()
    with learner.no_bar(), learner.no_logging():
        files = vision.get_image_files(Path(task.images) / last_part(task))
        unseen = loaders.test_dl(files, with_labels=True)
        _, reached = learner.validate(dl=unseen)
    return watch.outcome(accuracy=float(reached), images=len(loaders.train_ds))
