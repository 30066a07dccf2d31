"""What a user may write: one typed dataclass a group, a docstring under each field.

Hydra composes YAML, `compose.parse` turns it into these values, and every room gets its own part and nothing more.
The network's groups stand in schema_network.py, those of the images in schema_images.py, methods in schema_methods.py;
import all of them from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from graft.config.choices import (
    AUTO,
    FIND,
    Accelerator,
    CacheKind,
    ClassWeights,
    DataKind,
    Direction,
    DonorKind,
    Epoch,
    Freeze,
    FreezeBatchNorm,
    HeadKind,
    Library,
    Mode,
    OnError,
    Precision,
    Profiler,
    Rate,
    RegressionLoss,
    SchedulerKind,
    StepSearch,
    Strategy,
    Targets,
    TaskKind,
    UnfreezeKind,
    Wandb,
)
from graft.config.duration import Duration, parse_duration
from graft.config.schema_images import AugmentConfig, CacheConfig, DataConfig
from graft.config.schema_network import (
    ApplicationConfig,
    BackboneConfig,
    DonorConfig,
    HeadConfig,
    KerasConfig,
    PreprocessConfig,
    PublishedConfig,
)

NOTHING = parse_duration(0)
EPOCH, TEN_EPOCHS = parse_duration("1 epoch"), parse_duration("10 epochs")


@dataclass(slots=True, kw_only=True)
class MethodConfig:
    """How fine-tuning is held back or steadied, beyond what is frozen."""

    l2_sp: float = 0.0
    """Pulls the donor's weights back to their starting point: adds this/2 times the squared distance to the loss.
    It takes weight decay's place there (L2-SP, Li et al. 2018)."""
    ema: float | None = None
    """Decay, at each step, of a running mean of the weights, which is what is evaluated and exported (0.999, say)."""
    distill: float = 0.0
    """Weight of keeping the donor's own outputs on the new images (learning without forgetting, Li & Hoiem 2016).
    The donor is kept beside the network, and its head, frozen, on the network's features: a second forward pass a step.
    """
    distill_temperature: float = 2.0
    """Softens both outputs before they are compared."""
    bitfit: bool = False
    """Of what is not frozen, only the backbone's biases and norms train, and the head (BitFit, Zaken et al. 2022)."""
    lora: int | None = None
    """Rank of what trains beside each of the backbone's frozen weights (LoRA, Hu et al. 2022); merged on export."""
    lora_alpha: float | None = None
    """The product of LoRA's matrices counts this over the rank. Null: once."""
    lora_targets: list[str] = field(default_factory=list)
    """Globs of the layers that LoRA adds to. Empty: every linear layer and convolution that can have one."""


__all__ = [
    "AUTO",
    "ApplicationConfig",
    "AugmentConfig",
    "BackboneConfig",
    "CacheConfig",
    "CacheKind",
    "CheckpointConfig",
    "ClassWeights",
    "Config",
    "DataConfig",
    "DataKind",
    "DonorConfig",
    "DonorKind",
    "FeaturesConfig",
    "FreezeBatchNorm",
    "FreezingConfig",
    "HeadConfig",
    "HeadKind",
    "KerasConfig",
    "Library",
    "LoggerConfig",
    "LossConfig",
    "MethodConfig",
    "Mode",
    "NetworkConfig",
    "OnError",
    "OptimizerConfig",
    "PreprocessConfig",
    "PublishedConfig",
    "RegressionLoss",
    "SchedulerConfig",
    "SchedulerKind",
    "Targets",
    "TaskKind",
    "TrainerConfig",
    "UnfreezeConfig",
    "UnfreezeKind",
]


@dataclass(slots=True, kw_only=True)
class UnfreezeConfig:
    """The schedule by which frozen stages thaw."""

    kind: UnfreezeKind = MISSING
    """The schedule by which stages thaw; each option of the group sets it."""
    every: Duration = EPOCH
    """gradual: a further stage thaws each time this much has passed."""
    start: Duration | None = None
    """gradual: when the first stage thaws. lp_ft: when everything does. Null: after 1 epoch; lp_ft from a solved head:
    at once."""
    table: dict[Duration, Freeze] = field(default_factory=dict[Duration, Freeze])
    """at: moment ("3 epochs", "500 steps", "40%") to freeze expression."""
    patience: int = 2
    """plateau: a further stage thaws when checkpoint.monitor has not improved for so many epochs."""
    min_delta: float = 0.0
    """plateau: what an improvement must exceed."""
    warmup: Duration = NOTHING
    """What thaws comes to its learning rate by a line of this length: "1 epoch", "100 steps" or "5%"."""
    phase_factors: list[float] = field(default_factory=list)
    """A factor on every learning rate in each phase, in order; the last holds for the phases after it."""


@dataclass(slots=True, kw_only=True)
class OptimizerConfig:
    """The optimizer, and the learning rate of every stage."""

    name: str = MISSING
    """adamw, sgd, or any optimizer of timm's by its name."""
    lr: Rate = MISSING
    """Learning rate of the trunk (and of the head, unless lr_scale says otherwise). find: by a range test."""
    weight_decay: float = 0.0
    """Not applied to biases, norms, scales, tokens, positions and what the model's no_weight_decay() names."""
    no_decay: list[str] = field(default_factory=list)
    """Globs of further parameters without weight decay, as *.attn.qkv.weight."""
    lr_scale: dict[str, float] = field(default_factory=dict)
    """Stage, head or name prefix to a factor on lr. The longest prefix that fits wins."""
    layer_decay: float | None = None
    """Each stage towards the input learns at this factor of the one after it (0 to 1)."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimizer (momentum, betas, …)."""

    @property
    def rate(self) -> float:
        """The learning rate, where it is a number.

        Raises:
            ValueError: it is still to be found.
        """
        if self.lr == FIND:
            raise ValueError("optimizer.lr: expected a number, received find; try the rate of a range test")
        return self.lr


@dataclass(slots=True, kw_only=True)
class SchedulerConfig:
    """The curve that every learning rate follows."""

    kind: SchedulerKind = MISSING
    """The curve that the learning rate follows; each option of the group sets it."""
    warmup: Duration = NOTHING
    """Linear warm-up: "2 epochs", "500 steps" or "10%"."""
    min_factor: float = 0.0
    """cosine: the rate at the end, over lr."""
    peak_at: float = 0.3
    """one_cycle: the share of training spent rising."""
    start_factor: float = 0.04
    """one_cycle: the rate at the start, over lr."""
    end_factor: float = 0.0001
    """one_cycle: the rate at the end, over lr."""
    every: Duration = TEN_EPOCHS
    """step: the rate is multiplied by gamma each time this much has passed."""
    gamma: float = 0.1
    """step: the factor of each drop."""


@dataclass(slots=True, kw_only=True)
class TrainerConfig:
    """Where training runs, how long, and in which precision."""

    max_epochs: int = MISSING
    """Passes over the training part."""
    accelerator: Accelerator = "auto"
    """auto, cpu or gpu."""
    devices: int = 1
    """GPUs, or CPU processes, on each machine."""
    num_nodes: int = 1
    """Machines."""
    strategy: Strategy = "auto"
    """auto (one process a device as soon as there are several), ddp, or fsdp (weights shared out over GPUs)."""
    precision: Precision = "auto"
    """auto (bf16-mixed on a GPU that has it, else 32-true), 32-true, bf16-mixed or 16-mixed. Of training, and of kept
    training features where a mixed one is asked for; every evaluation is in float32."""
    accumulate: int = 1
    """Batches per optimizer step."""
    clip_norm: float | None = None
    """Gradient norm is clipped to this."""
    on_nan: OnError = OnError.stop
    """stop at a step whose loss or gradients are NaN or infinite, or skip it: left out, and counted in metrics.json."""
    channels_last: bool = True
    """Keep image tensors channels-last in memory, which is faster on most devices."""
    engine: bool = True
    """Frozen leading stages run without autograd, batch-norm folded, and, for steps in a mixed precision, in bf16 where
    the device has units for it; false: as the network is."""
    recompute: bool = False
    """Activation checkpointing of the stages that train: less memory, about a third more time; needs cache=none."""
    compile: bool = False
    """Run the network through torch.compile."""
    tune: StepSearch = "off"
    """auto: a few steps of each sensible way (memory order, precision where it is auto, the optimizer's implementation,
    and compile where it is asked for) are measured, and the fastest whose loss holds is taken and remembered; off."""
    threads: int | None = None
    """CPU threads. Null: torch's choice, and one where only a small head trains on kept features."""
    progress: bool = True
    """Show progress bars."""
    profiler: Profiler = "shares"
    """shares: where the time went, in metrics.json. torch: a trace of each operation in the run's folder, slower."""
    latency: bool = False
    """metrics.json has latency_ms: what the exported network takes for one image on the device that trained it."""


@dataclass(slots=True, kw_only=True)
class CheckpointConfig:
    """When the training state is saved, and which epoch counts as the best."""

    every_n_steps: int | None = None
    """checkpoints/last.ckpt is written at the end of epochs, and every so many steps."""
    monitor: str = "val/loss"
    """checkpoints/best.ckpt is the epoch where this is best. Never a test/ metric."""
    direction: Direction = "min"
    """min or max, as the monitored figure has it: min of losses and errors, max of all else."""
    epoch: Epoch = "best"
    """Whose weights are exported, and are checkpoints/best.ckpt. best: by the monitor. last: where the rate ends at
    zero and weights are averaged, no luck of few validation images chooses then."""


@dataclass(slots=True, kw_only=True)
class LoggerConfig:
    """What is written besides metrics.csv, which always is."""

    tensorboard: bool = False
    """Write TensorBoard files into the run's folder, beside metrics.csv."""
    wandb: Wandb = "off"
    """Weights & Biases: off, offline (files in the run's folder, to be sent by `wandb sync`) or online."""
    mlflow: str | None = None
    """Where MLflow keeps its runs: a folder (plain files), a database (sqlite:///outputs/mlflow.db) or a server."""
    project: str = "graft"
    """The project of Weights & Biases, and MLflow's experiment, that the run belongs to."""


@dataclass(slots=True, kw_only=True)
class LossConfig:
    """What training minimises: cross-entropy (single_label, multi_label) or an error (regression)."""

    label_smoothing: float = 0.0
    """single_label: share of each target spread evenly over all classes. multi_label: over yes and no of each label."""
    class_weights: ClassWeights = ClassWeights.none
    """balanced. single_label: each class weighs in inverse proportion to its images. multi_label: the images with a
    label weigh as much as those without it."""
    regression: RegressionLoss = RegressionLoss.mse
    """regression: the squared error, or smooth_l1, which is linear beyond one standard deviation of the target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """What a network is built from and filled with: of the images, what its layers and its preprocessing need."""

    backbone: BackboneConfig
    head: HeadConfig
    donor: DonorConfig
    channels: int
    image_size: int | None
    crop_fraction: float | None
    reduced_jpeg: bool
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezingConfig:
    """What stays frozen, and until when; BitFit and LoRA hold or free single weights."""

    freeze: Freeze
    freeze_bn: FreezeBatchNorm
    unfreeze: UnfreezeConfig
    method: MethodConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesConfig:
    """What is kept of images that frozen stages see, and how that is computed."""

    cache: CacheConfig
    trainer: TrainerConfig
    method: MethodConfig
    augment: AugmentConfig
    freeze_bn: FreezeBatchNorm
    channels: int


@dataclass(slots=True, kw_only=True)
class Config:
    """A run, as its user describes it."""

    mode: Mode = Mode.train
    """train, or plan: print what would happen and stop."""
    seed: int = 0
    """Everything random follows from it."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The pretrained trunk."""
    donor: DonorConfig = field(default_factory=DonorConfig)
    """Where the weights come from."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The new layers."""
    freeze: Freeze = "backbone"
    """A stage expression (none, backbone, layer3, layer1-3, joined by +), or a list of literal name prefixes."""
    freeze_bn: FreezeBatchNorm = FreezeBatchNorm.frozen
    """frozen: batch-norm of frozen stages keeps its statistics; all: the whole trunk's; none: no stage's."""
    unfreeze: UnfreezeConfig = field(default_factory=UnfreezeConfig)
    """The schedule by which frozen stages thaw."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The rule of the step, and each stage's learning rate."""
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    """The curve that the learning rates follow."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What training minimises."""
    method: MethodConfig = field(default_factory=MethodConfig)
    """How fine-tuning is held back or steadied."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images and their classes."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How training images are varied."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """What is computed once and kept on disk."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Where and how long it trains."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When the training state is saved, and which epoch is the best."""
    resume: str = "auto"
    """auto (go on if the run's folder holds a checkpoint), never, or a checkpoint's path."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    """What is written besides metrics.csv."""

    @property
    def network(self) -> NetworkConfig:
        """The part of whatever builds, fills or compares networks."""
        data = self.data
        return NetworkConfig(
            backbone=self.backbone, head=self.head, donor=self.donor, channels=data.channels, seed=self.seed,
            image_size=data.image_size, crop_fraction=data.crop_fraction, reduced_jpeg=data.reduced_jpeg,
        )  # fmt: skip

    @property
    def freezing(self) -> FreezingConfig:
        """The part of the freeze schedule."""
        return FreezingConfig(freeze=self.freeze, freeze_bn=self.freeze_bn, unfreeze=self.unfreeze, method=self.method)

    @property
    def features(self) -> FeaturesConfig:
        """The part of what is computed once."""
        return FeaturesConfig(
            cache=self.cache, trainer=self.trainer, method=self.method, augment=self.augment,
            freeze_bn=self.freeze_bn, channels=self.data.channels,
        )  # fmt: skip
