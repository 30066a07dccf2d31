"""The config schema: one typed dataclass per group, with a docstring under each field.

Hydra composes YAML, `compose.parse` turns it into these values, and every room receives only its own section.
The groups are in schema_network.py, schema_images.py, schema_training.py and schema_results.py; import them from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from graft.config.choices import (
    AUTO,
    CacheKind,
    ClassWeights,
    DataKind,
    DonorKind,
    Freeze,
    FreezeBatchNorm,
    HeadKind,
    Library,
    Mode,
    OnError,
    RegressionLoss,
    Resize,
    SchedulerKind,
    Targets,
    TaskKind,
    UnfreezeKind,
)
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
from graft.config.schema_results import ResultsConfig
from graft.config.schema_training import (
    CheckpointConfig,
    LoggerConfig,
    LossConfig,
    MethodConfig,
    OptimizerConfig,
    SchedulerConfig,
    TrainerConfig,
    UnfreezeConfig,
)

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
    "ResultsConfig",
    "SchedulerConfig",
    "SchedulerKind",
    "Targets",
    "TaskKind",
    "TrainerConfig",
    "UnfreezeConfig",
    "UnfreezeKind",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Everything needed to build a network and load its weights, including the image settings that affect its
    layers."""

    backbone: BackboneConfig
    head: HeadConfig
    donor: DonorConfig
    channels: int
    image_size: int | None
    crop_fraction: float | None
    resize: Resize
    reduced_jpeg: bool
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezingConfig:
    """What is frozen, and until when; BitFit and LoRA freeze or unfreeze single weights."""

    freeze: Freeze
    freeze_bn: FreezeBatchNorm
    unfreeze: UnfreezeConfig
    method: MethodConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesConfig:
    """What is cached of the images, and how cached features are computed."""

    cache: CacheConfig
    trainer: TrainerConfig
    method: MethodConfig
    augment: AugmentConfig
    freeze_bn: FreezeBatchNorm
    channels: int


@dataclass(slots=True, kw_only=True)
class Config:
    """The config of a run."""

    mode: Mode = Mode.train
    """train, or plan: print what would happen, and stop."""
    seed: int = 0
    """Seed of all random numbers."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The pretrained trunk."""
    donor: DonorConfig = field(default_factory=DonorConfig)
    """The source of the weights."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The new layers on top of the trunk."""
    freeze: Freeze = "backbone"
    """A stage expression (none, backbone, layer3, layer1-3, joined by +), or a list of literal name prefixes."""
    freeze_bn: FreezeBatchNorm = FreezeBatchNorm.frozen
    """Whose batch-norm statistics are frozen. frozen: those of frozen stages; all: those of the whole trunk; none."""
    unfreeze: UnfreezeConfig = field(default_factory=UnfreezeConfig)
    """The schedule that unfreezes stages."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer, and the learning rate of each stage."""
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    """The learning-rate schedule."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The training loss."""
    method: MethodConfig = field(default_factory=MethodConfig)
    """Methods that regularise or stabilise fine-tuning."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images and their classes."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the training images."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """What is computed once and cached on disk."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Devices, duration and precision of training."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are written, and which epoch is the best."""
    results: ResultsConfig = field(default_factory=ResultsConfig)
    """What is told of the results beside the task's figures."""
    resume: str = "auto"
    """auto (resume if the run's folder holds a checkpoint), never, or the path of a checkpoint."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    """Experiment trackers besides metrics.csv."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Further metrics, by any name: the import path of a class of torchmetrics or of your own, or of a function of the
    answers [N, K] and labels that returns a number; or {_target_: package.module:Class, ARGUMENT: …}."""
    callbacks: dict[str, Any] = field(default_factory=dict)
    """Lightning callbacks of your own, by any name: {_target_: package.module:Class, ARGUMENT: …}. Training is by
    steps in Lightning's Trainer then, also of a head on cached features."""

    @property
    def network(self) -> NetworkConfig:
        """The section for building, loading or comparing networks."""
        data = self.data
        return NetworkConfig(
            backbone=self.backbone, head=self.head, donor=self.donor, channels=data.channels, seed=self.seed,
            image_size=data.image_size, crop_fraction=data.crop_fraction, resize=data.resize,
            reduced_jpeg=data.reduced_jpeg,
        )  # fmt: skip

    @property
    def freezing(self) -> FreezingConfig:
        """The section for the freeze schedule."""
        return FreezingConfig(freeze=self.freeze, freeze_bn=self.freeze_bn, unfreeze=self.unfreeze, method=self.method)

    @property
    def features(self) -> FeaturesConfig:
        """The section for cached features."""
        return FeaturesConfig(
            cache=self.cache, trainer=self.trainer, method=self.method, augment=self.augment,
            freeze_bn=self.freeze_bn, channels=self.data.channels,
        )  # fmt: skip
