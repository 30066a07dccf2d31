"""The config of training: schedule, optimiser, trainer, checkpoints, loss and methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from graft.config.choices import (
    FIND,
    Accelerator,
    ClassWeights,
    Direction,
    Epoch,
    Epochs,
    Freeze,
    LossKind,
    OnError,
    Precision,
    Profiler,
    Rate,
    RegressionLoss,
    SchedulerKind,
    StepSearch,
    Strategy,
    UnfreezeKind,
    Wandb,
)
from graft.config.duration import Duration, parse_duration

NOTHING = parse_duration(0)
EPOCH, TEN_EPOCHS = parse_duration("1 epoch"), parse_duration("10 epochs")


@dataclass(slots=True, kw_only=True)
class MethodConfig:
    """Methods that regularise or stabilise fine-tuning, besides freezing."""

    l2_sp: float = 0.0
    """Pulls the weights towards the donor's: adds this/2 times the squared distance to the loss, in place of weight
    decay (L2-SP, Li et al. 2018)."""
    ema: float | None = None
    """Decay per step of an exponential moving average of the weights, which is evaluated and exported (0.999, say)."""
    distill: float = 0.0
    """Weight of a loss that keeps the donor's own outputs on the new images (learning without forgetting, Li & Hoiem
    2016). Costs a second forward pass per step, through a frozen copy of the donor."""
    distill_temperature: float = 2.0
    """Temperature of both softmax outputs before they are compared."""
    bitfit: bool = False
    """Train the head and, in unfrozen layers, only biases and norms (BitFit, Zaken et al. 2022)."""
    lora: int | None = None
    """Rank of the matrices that train beside each frozen weight of the backbone (LoRA, Hu et al. 2022); merged on
    export."""
    lora_alpha: float | None = None
    """The product of LoRA's matrices is scaled by this divided by the rank. Null: not scaled."""
    lora_targets: list[str] = field(default_factory=list)
    """Globs of the layers that LoRA adapts. Empty: every linear layer and convolution that supports it."""


@dataclass(slots=True, kw_only=True)
class UnfreezeConfig:
    """The schedule that unfreezes stages."""

    kind: UnfreezeKind = MISSING
    """The schedule that unfreezes stages; each option of the group sets it."""
    every: Duration = EPOCH
    """gradual: one more stage is unfrozen after each interval of this length."""
    start: Duration | None = None
    """gradual: when the first stage is unfrozen. lp_ft: when everything is. Null: after 1 epoch; for lp_ft from a
    solved head: at once."""
    table: dict[Duration, Freeze] = field(default_factory=dict[Duration, Freeze])
    """at: a table from moments ("3 epochs", "500 steps", "40%") to freeze expressions."""
    patience: int = 2
    """plateau: one more stage is unfrozen when checkpoint.monitor has not improved for this many epochs."""
    min_delta: float = 0.0
    """plateau: a smaller change does not count as an improvement."""
    target: str | None = None
    """custom: import path of a function target(progress, **kwargs) that returns the freeze expression, or list of
    prefixes, at a share of the training: from 0.0 at its start, which must be what freeze says, in hundredths up to
    0.99."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """custom: further arguments of target."""
    warmup: Duration = NOTHING
    """Linear warm-up of newly unfrozen parameters: "1 epoch", "100 steps" or "5%"."""
    phase_factors: list[float] = field(default_factory=list)
    """A factor on every learning rate for each phase, in order; the last one also applies to later phases."""


@dataclass(slots=True, kw_only=True)
class OptimizerConfig:
    """The optimizer, and the learning rate of every stage."""

    name: str = MISSING
    """adamw, sgd, the name of any optimizer of timm, or custom: that of target."""
    target: str | None = None
    """custom: import path of a torch optimizer, or of a function that returns one: target(groups, lr=…, **kwargs), with
    weight_decay if it takes it."""
    lr: Rate = MISSING
    """Learning rate of the trunk (and of the head, unless lr_scale changes it). find: from a range test (Smith
    2017)."""
    weight_decay: float = 0.0
    """Weight decay; not applied to biases, norms, scales, tokens, positions and names in the model's
    no_weight_decay()."""
    no_decay: list[str] = field(default_factory=list)
    """Globs of further parameters without weight decay, such as *.attn.qkv.weight."""
    lr_scale: dict[str, float] = field(default_factory=dict)
    """Factors on lr by stage, head or name prefix. The longest matching prefix wins."""
    layer_decay: float | None = None
    """Factor on the learning rate from each stage to the one before it, towards the input (0 to 1)."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimizer (momentum, betas, …)."""

    @property
    def label(self) -> str:
        """The name, or the import path of a custom one."""
        return self.target or self.name

    @property
    def rate(self) -> float:
        """The learning rate as a number.

        Raises:
            ValueError: the rate is still to be found by a range test.
        """
        if self.lr == FIND:
            raise ValueError("optimizer.lr: expected a number, received find; try the rate of a range test")
        return self.lr


@dataclass(slots=True, kw_only=True)
class SchedulerConfig:
    """The learning-rate schedule."""

    kind: SchedulerKind = MISSING
    """The shape of the schedule; each option of the group sets it."""
    warmup: Duration = NOTHING
    """Linear warm-up: "2 epochs", "500 steps" or "10%"."""
    target: str | None = None
    """custom: import path of a function target(progress, **kwargs) that returns the factor on every learning rate;
    progress runs from 0 after the warm-up to 1."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """custom: further arguments of target."""
    min_factor: float = 0.0
    """cosine: the final learning rate as a fraction of lr."""
    peak_at: float = 0.3
    """one_cycle: the fraction of training during which the rate rises."""
    start_factor: float = 0.04
    """one_cycle: the initial learning rate as a fraction of lr."""
    end_factor: float = 0.0001
    """one_cycle: the final learning rate as a fraction of lr."""
    every: Duration = TEN_EPOCHS
    """step: the rate is multiplied by gamma after each interval of this length."""
    gamma: float = 0.1
    """step: the factor at each step."""


@dataclass(slots=True, kw_only=True)
class TrainerConfig:
    """Devices, duration and precision of training."""

    max_epochs: Epochs = MISSING
    """Number of passes over the training images; with patience, the maximum. auto: from the number of images
    (docs/methods.md)."""
    patience: int | None = None
    """Early stopping: training ends when checkpoint.monitor has not improved for this many epochs. Null: never."""
    accelerator: Accelerator = "auto"
    """auto, cpu or gpu."""
    devices: int = 1
    """Number of GPUs, or of CPU processes, per machine."""
    num_nodes: int = 1
    """Number of machines."""
    strategy: Strategy = "auto"
    """auto (one process per device if there are several), ddp, or fsdp (weights sharded over GPUs)."""
    precision: Precision = "auto"
    """auto (bf16-mixed on a GPU that supports it, otherwise 32-true), 32-true, bf16-mixed or 16-mixed. Applies to
    training and, if set to a mixed precision, to cached training features; every evaluation is in float32."""
    accumulate: int = 1
    """Batches per optimizer step."""
    clip_norm: float | None = None
    """Maximum gradient norm; larger gradients are clipped to it."""
    on_nan: OnError = OnError.stop
    """At a step whose loss or gradients are NaN or infinite: stop, or skip the step and count it in metrics.json."""
    channels_last: bool = True
    """Use the channels-last memory format, which is faster on most devices."""
    engine: bool = True
    """Run frozen leading stages as an inference engine: without autograd, with folded batch-norm, and for
    mixed-precision steps in bf16 if the device has units for it; false: run the network itself."""
    recompute: bool = False
    """Activation checkpointing of the trained stages: less memory, about a third more time; needs cache=none."""
    compile: bool = False
    """Compile the network with torch.compile."""
    tune: StepSearch = "off"
    """auto: measure a few steps with each sensible setting (memory format, precision if it is auto, the optimizer's
    implementation, and compile if it is true), then use and remember the fastest one with the same loss; off."""
    threads: int | None = None
    """CPU threads. Null: torch's choice, or one if only a small head trains on cached features."""
    progress: bool = True
    """Show progress bars."""
    profiler: Profiler = "shares"
    """shares: the time spent in each part of the run, in metrics.json. torch: a trace of every operation, slower."""
    latency: bool = False
    """Measure latency_ms: the time in ms of the exported network for one image, on the training device
    (metrics.json)."""

    @property
    def epochs(self) -> int:
        """The number of epochs as a number.

        Raises:
            ValueError: it is still to be chosen.
        """
        if isinstance(self.max_epochs, str):
            raise ValueError("trainer.max_epochs: expected a number, received auto; try that of the plan")
        return self.max_epochs


@dataclass(slots=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written, and which epoch is the best."""

    every_n_steps: int | None = None
    """Write checkpoints/last.ckpt every so many steps, in addition to the end of epochs."""
    monitor: str = "val/loss"
    """The metric that selects checkpoints/best.ckpt. Never a test/ metric."""
    direction: Direction = "min"
    """Whether the monitored metric is better when lower (min: losses and errors) or higher (max: all others)."""
    epoch: Epoch = "best"
    """The epoch whose weights are exported and become checkpoints/best.ckpt. best: by the monitor. last: suits
    schedules that end at a rate of zero with averaged weights, since no chance of a few validation images decides
    then."""


@dataclass(slots=True, kw_only=True)
class LoggerConfig:
    """Experiment trackers besides metrics.csv, which is always written."""

    tensorboard: bool = False
    """Write TensorBoard files into the run's folder."""
    wandb: Wandb = "off"
    """Weights & Biases: off, offline (files in the run's folder, uploaded later by `wandb sync`) or online."""
    mlflow: str | None = None
    """Where MLflow stores its runs: a folder (plain files), a database (sqlite:///outputs/mlflow.db) or a server."""
    project: str = "graft"
    """Name of the project in Weights & Biases and of the experiment in MLflow."""
    own: dict[str, Any] = field(default_factory=dict)
    """Further Lightning loggers, by any name: {_target_: package.module:Class, ARGUMENT: …}. save_dir is the run's
    folder unless it is set."""


@dataclass(slots=True, kw_only=True)
class LossConfig:
    """The training loss; every evaluation, val/loss too, uses the task's own."""

    kind: LossKind = LossKind.task
    """task: cross-entropy (single_label, multi_label) or an error (regression). focal: focal loss (single_label,
    multi_label). logit_adjusted: cross-entropy with adjusted logits (single_label). custom: that of target."""
    gamma: float = 2.0
    """focal: the exponent of 1 − p; 0: cross-entropy (Lin et al. 2017)."""
    tau: float = 1.0
    """logit_adjusted: the factor on the logarithm of each class's fraction of the training images, which is added to
    the logits in training (Menon et al. 2021)."""
    target: str | None = None
    """custom: import path of a function target(outputs, targets, **kwargs), or of a class that is made with kwargs and
    called so. Returns the mean over the batch, or a loss for each image."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """custom: further arguments of target."""
    label_smoothing: float = 0.0
    """single_label: fraction of each target spread evenly over all classes. multi_label: over yes and no of each
    label."""
    class_weights: ClassWeights = ClassWeights.none
    """none, or balanced. single_label: class weights inversely proportional to the number of images. multi_label: for
    each label, the images with it weigh as much as those without."""
    weights: dict[str, float] = field(default_factory=dict)
    """single_label: weights of classes by name; classes that are not named have weight 1."""
    regression: RegressionLoss = RegressionLoss.mse
    """regression: mse, or smooth_l1, which is linear beyond one standard deviation of the target."""
