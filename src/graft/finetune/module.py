"""The LightningModule: one training step, the freeze state by progress, randomness by (seed, epoch, batch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from typing_extensions import override

from graft.config.schema import LossConfig, MethodConfig, OnError
from graft.data.sampling import derive
from graft.finetune.finite import Finite
from graft.finetune.freeze import Frozen, apply_freeze, check_tied, unmoving
from graft.finetune.methods import Methods
from graft.finetune.metrics import Batch, Evaluating, Sums, trained_figures
from graft.finetune.noise import seed_noise
from graft.finetune.optimizer import build_optimizer
from graft.finetune.progress import TrainingClock, Watch
from graft.finetune.route import EVALUATION, Route
from graft.finetune.state import add_state, take_up
from graft.finetune.step_mean import StepMean
from graft.finetune.training_plan import TrainingPlan
from graft.finetune.unfreeze import Phase
from graft.tasks.task import Task

SMALL = 1_000_000  # weights of a head that one thread trains as fast as several
NAN_CHECK_EVERY = 50  # batches between looks at what a GPU has noted


class FineTuning(Evaluating):
    """Trains `network` under a freeze schedule. Mutates it: weights, requires_grad and training mode.

    A batch contains "image" [B, C, H, W], or "features" that enter at the cut, and further entries as described in
    `Evaluating`.

    Args:
        plan: the plan to carry out, as set by `adopt`.
        loss: the training loss; evaluation uses the task's own loss.
        methods: methods that take part in a step besides the loss; none by default.
        route: how a batch passes through the network; the whole network by default.
        shared: further settings that a resumed run must share with the one that wrote its checkpoint, as plain values.
    """

    def __init__(
        self,
        network: nn.Module,
        plan: TrainingPlan,
        task: Task,
        *,
        loss: LossConfig | None = None,
        methods: Methods | None = None,
        route: Route | None = None,
        shared: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(task)
        self.network = network
        self.plan = plan
        self.loss_config = loss or LossConfig()
        self.criterion = task.criterion(self.loss_config)
        self.methods = methods or Methods(MethodConfig(), network)
        self.route = route or Route(network, plan.stages)
        self.shared = dict(shared or {})
        self.sums = Sums()
        self._sums_before = self.sums.values
        self.step_mean = StepMean()
        self.clock = TrainingClock()
        self.history: list[dict[str, Any]] = []

    def adopt(self, plan: TrainingPlan) -> None:
        """Trains by this plan from now on. Called before training; changes which parameters require gradients."""
        self.plan = plan
        self.watch = Watch(self.network, plan.states, plan.freeze_bn, heads=plan.stages.heads)
        self.watch.phases = list(plan.phases)
        self.finite = Finite(self.network, plan.groups, plan.on_nan, patience=plan.steps_per_epoch)
        # Everything that ever trains requires gradients now, so that a distributed wrapper knows it; the first phase
        # takes hold when training starts.
        for state in plan.states:
            check_tied(self.network, state)
        always = Frozen(expression="", names=plan.never_trained, stages=())
        apply_freeze(self.network, always, plan.freeze_bn, heads=plan.stages.heads)
        self.methods.lay_out(self.route, self.watch.injected.keys())

    def decide(self, decisions: Sequence[int]) -> None:
        """Updates phases and rates to the schedule's decisions so far."""
        if tuple(decisions) != self.plan.decisions:
            self.plan = self.plan.derived(decisions=decisions)
            self.watch.phases = list(self.plan.phases)

    @property
    def is_cut(self) -> bool:
        """Whether training starts behind a cut, on cached features."""
        return bool(self.route.behind)

    def kept_at(self, epoch: int) -> str | None:
        """The deepest stage with cached features that no step up to the end of this epoch changes; None if there is
        none.

        For an epoch after the last one, it is a stage that no phase has changed, so its features are valid for any
        epoch's weights.
        """
        stop = (epoch + 1) * self.plan.steps_per_epoch
        states = [phase.frozen for phase in self.plan.phases if phase.start_step < stop]
        return self.route.kept_within(frozenset.intersection(*(self._unmoving(state) for state in states)))

    @property
    def kept_throughout(self) -> str | None:
        """The deepest stage with cached features that no step of the training can change; None if there is none."""
        return self.route.kept_within(frozenset.intersection(*(self._unmoving(state) for state in self.plan.states)))

    @property
    def is_small(self) -> bool:
        """Whether a step is only a head on cached features, which is less work than distributing it over threads.

        On a busy machine, threads that wait for each other multiply the time of such steps.
        """
        cut = self.kept_throughout
        weights = list(self.route.behind[cut].parameters()) if cut else []
        matrices = all(weight.ndim <= 2 for weight in weights)
        return bool(weights) and matrices and sum(weight.numel() for weight in weights) <= SMALL

    def _unmoving(self, frozen: Frozen) -> frozenset[str]:
        return unmoving(self.network, frozen, self.plan.freeze_bn, heads=self.plan.stages.heads)

    def forget(self) -> None:
        """Resets everything to before the training, except the network's weights."""
        self.history, self.row, self.sums, self.clock = [], {}, Sums(), TrainingClock()
        self.route.leave()

    @override
    def train(self, mode: bool = True) -> FineTuning:
        super().train(mode)
        self.route.train(mode)
        return self

    @override
    def forward(self, image: Tensor) -> Tensor:
        return self.logits({"image": image})

    def logits(self, batch: Batch) -> Tensor:
        """Logits as training computes them."""
        return self.route(batch)

    @override
    def configure_optimizers(self) -> Optimizer:
        scaled_and_clipped = self.trainer.precision == "16-mixed" and bool(self.trainer.gradient_clip_val)
        return build_optimizer(self.plan.groups, self.network, self.plan.optimizer, fused=not scaled_and_clipped)

    @override
    def on_fit_start(self) -> None:
        self.route.to(self.device)
        self.methods.to(self.device, channels_last=self.route.channels_last)
        self.finite.scaled = self.trainer.precision == "16-mixed"
        self.sums.values = self.sums.values.to(self.device)

    @override
    def on_train_start(self) -> None:
        self.enter_phase(self.global_step)
        self.train()
        self.clock.go("training")

    @override
    def on_train_epoch_start(self) -> None:
        self.sums = Sums(self.device)
        self.clock.go("training")

    @override
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.clock.step()
        seed_noise(derive("step", self.plan.seed, self.current_epoch, batch_idx, self.global_rank), self.device)
        self.enter_phase(self.global_step)
        optimizer = cast(Optimizer, self.optimizers(use_pl_optimizer=False))
        self.plan.rates.apply(optimizer, self.plan.groups, self.global_step)
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.step_mean.start(self.trainer.accumulate_grad_batches, self.trainer.world_size)
            self.finite.before_step()
            if self.plan.on_nan is OnError.skip:
                self._sums_before = self.sums.values.clone()

    def enter_phase(self, step: int) -> None:
        """Enters the phase of this step: applies its freeze state to the network, and updates the route."""
        phase = self.watch.phase_at(step)
        if self.watch.enter(phase):
            apply_freeze(self.network, phase.frozen, self.plan.freeze_bn, heads=self.plan.stages.heads)
        self._take_route(phase)

    def _take_route(self, phase: Phase) -> None:
        self.route.enter(phase.start_step, lambda: self._unmoving(phase.frozen))

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with self.methods.listening():
            logits = self.logits(batch)
        loss = self.criterion(logits.float(), batch["target"])
        weights = self.criterion.weights(batch["target"])
        weight = None if weights is None else weights.sum()
        scored = self.task.scored(logits.detach(), self.task.label(batch))
        self.sums.add(loss.detach(), scored, len(logits), weight)
        loss = self.methods.with_weights(self.methods.with_batch(loss, batch, weights))
        return self.finite.watch(self.step_mean.share(loss, len(logits) if weight is None else weight))

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if not self.finite.judge(self.global_step):
            self.sums.values = self._sums_before  # a step that is left out is left out of the figures too

    @override
    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips gradients. Lightning refuses fused optimizers in any mixed precision because of the gradient scaler,
        which bf16 does not have."""
        if self.trainer.precision == "bf16-mixed" and gradient_clip_val:
            clip_grad_norm_([each for group in optimizer.param_groups for each in group["params"]], gradient_clip_val)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    @override
    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        def gradients() -> Any:
            """Complete before any callback, the look for NaN or the clipping sees them."""
            assert optimizer_closure is not None, "Lightning computes the gradients of a step within its closure"
            outputs = optimizer_closure()
            self.step_mean.correct(optimizer)
            return outputs

        super().optimizer_step(epoch, batch_idx, optimizer, gradients)
        self.methods.after_step()  # before any callback saves a checkpoint

    @override
    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.clock.images += len(batch["target"]) * self.trainer.world_size
        if (batch_idx + 1) % NAN_CHECK_EVERY == 0:
            self.check_finite()

    def check_finite(self) -> None:
        """Raises RunFailed if training has met NaN or infinity. It synchronises with the device, so no step calls
        it."""
        self.finite.check(self.global_step)

    @override
    def on_validation_epoch_start(self) -> None:
        self.check_finite()
        self.clock.go("evaluation")
        super().on_validation_epoch_start()
        if self.trainer.state.fn == "fit":  # a resumed run may have entered the next phase before it evaluates
            self._take_route(self.watch.phase_at(self.global_step - 1))
        if self.methods.average is not None:
            self.methods.average.agree()

    @override
    def evaluated_logits(self, batch: Batch) -> Tensor:
        """Logits of the network that is exported: of the averaged weights if there are any."""
        mean = self.methods.average
        return (self.route if mean is None else mean.route)(batch, purpose=EVALUATION)

    @override
    def on_validation_model_zero_grad(self) -> None:
        """Clears the optimizer's gradients only: other parameters have none, and Lightning would go through the whole
        network."""
        cast(Optimizer, self.optimizers(use_pl_optimizer=False)).zero_grad()

    @override
    def on_validation_model_train(self) -> None:
        self.train()

    def finish_epoch(self) -> dict[str, Any]:
        """The epoch's row, after adding it to the history. Epochs count from 1, as everywhere in output for people."""
        seconds, images = self.clock.lap()
        row: dict[str, Any] = {
            "epoch": self.current_epoch + 1,
            "step": self.global_step,
            "lr": self.plan.rate_at(self.global_step - 1),
            **self.plan.rates.by_stage(self.plan.groups, self.global_step - 1),
            "frozen": str(self.watch.phase_at(self.global_step - 1).frozen),
            **trained_figures(self.task, self.over_ranks(self.sums.values)),
            **self.row,
            "seconds": seconds,
            "images_per_second": images / seconds if seconds else 0.0,
        }
        self.history.append(row)
        self.decide(self.plan.schedule.decide(self.history, self.plan.steps_per_epoch))
        return row

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        add_state(checkpoint, self)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        take_up(checkpoint, self)
