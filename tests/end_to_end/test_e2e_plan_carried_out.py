"""What plan.json says of every step is what the steps do: rates, freeze state and number, of a real training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import Callback

from graft.finetune import fit as finetune
from graft.finetune.module import FineTuning

EPOCHS = 4


class Recorder(Callback):
    """Notes what the optimizer and the network hold when a step is taken."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == len(self.steps):
            return
        held = trainer.optimizers[0].param_groups
        assert isinstance(pl_module, FineTuning)
        names = {id(value): name for name, value in pl_module.network.named_parameters()}
        self.steps.append(
            {
                "step": trainer.global_step - 1,
                "rates": {group["name"]: group["lr"] for group in held},
                "groups": {group["name"]: [names[id(value)] for value in group["params"]] for group in held},
                "frozen": {name for name, value in pl_module.network.named_parameters() if not value.requires_grad},
            }
        )


@pytest.mark.parametrize(
    "changes",
    [
        ("unfreeze=gradual", "unfreeze.start=3 steps", "unfreeze.every=3 steps", "unfreeze.warmup=2 steps"),
        ("unfreeze=lp_ft", "unfreeze.start=5 steps", "unfreeze.phase_factors=[1,0.1]", "trainer.accumulate=2"),
    ],
    ids=["gradual", "lp_ft"],
)
def test_the_training_does_in_each_step_what_the_plan_says(
    tmp_path: Path,
    images: Path,
    run_here: Callable[..., float | None],
    monkeypatch: pytest.MonkeyPatch,
    changes: tuple[str, ...],
):
    recorder, make = Recorder(), finetune.make_trainer

    def recorded(*args: Any, **kwargs: Any) -> L.Trainer:
        trainer = make(*args, **kwargs)
        trainer.callbacks.append(recorder)  # pyright: ignore[reportAttributeAccessIssue]
        return trainer

    monkeypatch.setattr(finetune, "make_trainer", recorded)
    folder = tmp_path / "run"
    run_here(
        folder, f"data.root={images}", "data.batch_size=5", f"trainer.max_epochs={EPOCHS}", "donor.verify=false",
        "freeze=backbone", "scheduler=cosine", "scheduler.warmup=3 steps", "optimizer.layer_decay=0.7", *changes,
    )  # fmt: skip
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    steps = recorder.steps
    assert [each["step"] for each in steps] == list(range(plan["steps"]))
    assert plan["steps"] == EPOCHS * plan["steps_per_epoch"]
    phases = plan["phases"]
    assert len(phases) > 1
    assert [phase["start_step"] for phase in phases[1:]] == [phase["stop_step"] for phase in phases[:-1]]
    assert (phases[0]["start_step"], phases[-1]["stop_step"]) == (0, plan["steps"])
    assert set(steps[0]["rates"]) == {group["name"] for group in plan["groups"]}
    for place, phase in enumerate(phases):
        span = steps[phase["start_step"] : phase["stop_step"]]
        for group in plan["groups"]:
            told, rates = group["rates"][place], [each["rates"][group["name"]] for each in span]
            is_frozen = [set(each["groups"][group["name"]]) <= each["frozen"] for each in span]
            is_thawed = [set(each["groups"][group["name"]]).isdisjoint(each["frozen"]) for each in span]
            if told is None:
                assert group["stage"] in phase["frozen_stages"]
                assert all(is_frozen)
            else:
                assert group["stage"] not in phase["frozen_stages"]
                assert all(is_thawed)
                assert told == [rates[0], max(rates), rates[-1]]


def test_a_rate_and_a_faster_step_are_found_in_one_run(
    tmp_path: Path, images: Path, run_here: Callable[..., float | None]
):
    """Each on copies that go by the run's own plan, in which a rate that is yet to be found is 1."""
    folder = tmp_path / "run"
    run_here(folder, f"data.root={images}", "optimizer.lr=find", "trainer.tune=auto")
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    found = json.loads((folder / "lr_find.json").read_text(encoding="utf-8"))
    assert (plan["lr"], plan["lr_source"]) == (found["suggestion"], "found")
    assert plan["groups"][0]["rates"][0][0] == pytest.approx(found["suggestion"])
    assert json.loads((folder / "tune.json").read_text(encoding="utf-8"))["chosen"]["update"] in ("fused", "foreach")
