"""What a user may write: one typed dataclass a group, a docstring under each field.

Hydra composes YAML, `compose.parse` turns it into these values, and every room gets its own part and nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from graft.config.choices import (
    CacheKind,
    ClassWeights,
    DataKind,
    DonorKind,
    FreezeBatchNorm,
    HeadKind,
    Library,
    Mode,
    OnError,
    SchedulerKind,
    Targets,
    UnfreezeKind,
)


@dataclass(slots=True, kw_only=True)
class PreprocessConfig:
    """How the donor saw its images. A null means: as the library publishes it for this backbone."""

    image_size: int | None = None
    """Side of the square that enters the network, in pixels."""
    crop_fraction: float | None = None
    """Side of that square over the side the image's shorter edge is resized to."""
    interpolation: str | None = None
    """bilinear, bicubic or nearest."""
    mean: list[float] | None = None
    """Per channel, for values from 0 to 1."""
    std: list[float] | None = None
    """Per channel, for values from 0 to 1."""


@dataclass(slots=True, kw_only=True)
class PublishedConfig:
    """Where a backbone's published weights lie, when its library does not say, and how their names map."""

    package: str | None = None
    """An installed Python package that ships the file."""
    file: str | None = None
    """The file inside that package."""
    rename: list[list[str]] = field(default_factory=list)
    """Ordered [pattern, replacement] pairs: donor name to backbone name."""
    ignore: list[str] = field(default_factory=list)
    """Globs of donor names that the backbone has no place for (auxiliary classifiers, say)."""
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    """How those weights saw their images."""


@dataclass(slots=True, kw_only=True)
class BackboneConfig:
    """The pretrained trunk: a model of torchvision or timm, by name."""

    library: Library = MISSING
    """torchvision or timm."""
    name: str = MISSING
    """The model's name in its library."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the library's constructor (drop_path_rate, aux_logits, …)."""
    stages: dict[str, list[str]] = field(default_factory=dict)
    """Stage name to module-name prefixes, in forward order. Empty: derived from the module tree."""
    head: str | None = None
    """Name of the last layer, which a new head replaces. Null: found by what changes shape with the class count."""
    pool: str | None = None
    """Module that a head with hidden layers turns into global average pooling (VGG, AlexNet)."""
    classifier: str | None = None
    """Module that a head with hidden layers replaces, when it is more than the last layer (VGG's fc6 and fc7)."""
    published: PublishedConfig = field(default_factory=PublishedConfig)


@dataclass(slots=True, kw_only=True)
class DonorConfig:
    """Where the weights come from, and how their names and shapes map to the network's."""

    kind: DonorKind = MISSING
    """Where the donor comes from; each option of the group sets it."""
    path: str | None = None
    """File, run folder or Keras file (donor=file|run|keras)."""
    sha256: str | None = None
    """The donor file must have this hash."""
    match: str = "name"
    """name, structure or table."""
    rename: list[list[str]] = field(default_factory=list)
    """Ordered [pattern, replacement] pairs, applied with re.sub to donor names."""
    table: dict[str, str] = field(default_factory=dict)
    """With match=table: donor name to target name, in full."""
    skip: list[str] = field(default_factory=list)
    """Globs of target names that keep their initial values."""
    ignore: list[str] = field(default_factory=list)
    """Globs of donor names that are left unused."""
    adapt: dict[str, Any] = field(default_factory=dict)
    """Glob of target names to an adapter's name, or to {name: …, its options}."""
    container: str | None = None
    """Which entry of the file holds the tensors (state_dict, model, …), when there is a choice."""
    ema: bool = False
    """Take the averaged weights (state_dict_ema, model_ema) where the file has both."""
    class_map: str | None = None
    """names: keep the head's rows of classes that donor and data share."""
    verify: bool = False
    """Run a probe batch through the donor's own model and the new trunk and compare."""


@dataclass(slots=True, kw_only=True)
class HeadConfig:
    """The new layers on top of the trunk; the data decide the class count."""

    kind: HeadKind = MISSING
    """What the new layers are; each option of the group sets it."""
    hidden: list[int] = field(default_factory=list)
    """Widths of the hidden layers (head=mlp)."""
    dropout: float = 0.0
    """Before the last layer, and after each hidden one."""
    activation: str = "relu"
    """relu, gelu, silu, tanh or hardswish (head=mlp)."""
    norm: str = "none"
    """none, batch or layer (head=mlp)."""
    target: str | None = None
    """Import path of a module class called as target(in_features, num_classes, **kwargs) (head=custom)."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of target (head=custom)."""


@dataclass(slots=True, kw_only=True)
class UnfreezeConfig:
    """The schedule by which frozen stages thaw."""

    kind: UnfreezeKind = MISSING
    """The schedule by which stages thaw; each option of the group sets it."""
    every: Any = "1 epoch"
    """gradual: a further stage thaws each time this much has passed."""
    start: Any = "1 epoch"
    """gradual: when the first stage thaws. lp_ft: when everything does."""
    table: dict[str, Any] = field(default_factory=dict)
    """at: moment ("3 epochs", "500 steps", "40%") to freeze expression."""


@dataclass(slots=True, kw_only=True)
class OptimizerConfig:
    """The optimizer, and the learning rate of every stage."""

    name: str = MISSING
    """adamw, sgd, or any optimizer of timm's by its name."""
    lr: float = MISSING
    """Learning rate of the trunk (and of the head, unless lr_scale says otherwise)."""
    weight_decay: float = 0.0
    """Not applied to biases, norms and other one-dimensional parameters."""
    lr_scale: dict[str, float] = field(default_factory=dict)
    """Stage, head or name prefix to a factor on lr. The longest prefix that fits wins."""
    layer_decay: float | None = None
    """Each stage towards the input learns at this factor of the one after it (0 to 1)."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimizer (momentum, betas, …)."""


@dataclass(slots=True, kw_only=True)
class SchedulerConfig:
    """The curve that every learning rate follows."""

    kind: SchedulerKind = MISSING
    """The curve that the learning rate follows; each option of the group sets it."""
    warmup: Any = 0
    """Linear warm-up: "2 epochs", "500 steps" or "10%"."""
    min_factor: float = 0.0
    """cosine: the rate at the end, over lr."""
    peak_at: float = 0.3
    """one_cycle: the share of training spent rising."""
    start_factor: float = 0.04
    """one_cycle: the rate at the start, over lr."""
    end_factor: float = 0.0001
    """one_cycle: the rate at the end, over lr."""
    every: Any = "10 epochs"
    """step: the rate is multiplied by gamma each time this much has passed."""
    gamma: float = 0.1
    """step: the factor of each drop."""


@dataclass(slots=True, kw_only=True)
class DataConfig:
    """The images and their classes."""

    kind: DataKind = MISSING
    """What the images are read from; each option of the group sets it."""
    root: str | None = None
    """folder: the folder; csv: the file, its paths relative to it."""
    train: str = "train"
    """folder: name of the training part's folder."""
    val: str = "val"
    """folder: name of the validation part's folder."""
    test: str = "test"
    """folder: names of the parts' folders."""
    val_fraction: float = 0.15
    """Share of the training part carved off for validation, where there is none."""
    test_fraction: float = 0.0
    """folder and csv with no test part: share carved off for testing."""
    image_size: int | None = None
    """Side in pixels. Null: the donor's."""
    channels: int = 3
    """1, 3 or more; other than 3 changes the first layer, the donor's first layer and mean/std together."""
    batch_size: int = 32
    """Images per step and device."""
    num_workers: int | None = None
    """Loader processes. Null: chosen for the machine."""
    targets: Targets = Targets.hard
    """soft: the annotated probabilities, where the data has them."""
    balanced: bool = False
    """Draw each class equally often."""
    on_error: OnError = OnError.stop
    """An unreadable image stops the run, or is left out, counted and listed."""


@dataclass(slots=True, kw_only=True)
class AugmentConfig:
    """How training images are varied; off where not asked for."""

    name: str = MISSING
    """The preset's name, for the record."""
    hflip: float = 0.0
    """Probability of a left-right flip."""
    vflip: float = 0.0
    """Probability of a top-bottom flip."""
    quarter_turns: bool = False
    """Turn by 0, 90, 180 or 270 degrees, each as likely."""
    crop_scale: list[float] | None = None
    """Random resized crop: smallest and largest share of the area."""
    rotate: float = 0.0
    """Largest angle in degrees."""
    jitter: float = 0.0
    """Brightness and contrast, each by up to this share."""
    erase: float = 0.0
    """Probability of a random erased rectangle."""


@dataclass(slots=True, kw_only=True)
class CacheConfig:
    """What is computed once and kept on disk."""

    kind: CacheKind = MISSING
    """What is kept on disk; each option of the group sets it."""
    dir: str = "outputs/cache"
    """Shared by every run that names it."""
    max_gb: float = 20.0
    """Nothing is written beyond this."""
    dtype: str = "float32"
    """features: float32, float16 or bfloat16."""


@dataclass(slots=True, kw_only=True)
class TrainerConfig:
    """Where training runs, how long, and in which precision."""

    max_epochs: int = MISSING
    """Passes over the training part."""
    accelerator: str = "auto"
    """auto, cpu or gpu."""
    devices: int = 1
    """GPUs, or CPU processes, on each machine."""
    num_nodes: int = 1
    """Machines."""
    strategy: str = "auto"
    """auto (one process a device as soon as there are several) or ddp."""
    precision: str = "auto"
    """auto (bf16-mixed on a GPU that has it, else 32-true), 32-true, bf16-mixed or 16-mixed."""
    accumulate: int = 1
    """Batches per optimizer step."""
    clip_norm: float | None = None
    """Gradient norm is clipped to this."""
    channels_last: bool = True
    """Keep image tensors channels-last in memory, which is faster on most devices."""
    compile: bool = False
    """Run the network through torch.compile."""
    threads: int | None = None
    """CPU threads. Null: torch's choice."""
    progress: bool = True
    """Show progress bars."""


@dataclass(slots=True, kw_only=True)
class CheckpointConfig:
    """When the training state is saved, and which epoch counts as the best."""

    every_n_steps: int | None = None
    """checkpoints/last.ckpt is written each epoch, and every so many steps."""
    monitor: str = "val/loss"
    """checkpoints/best.ckpt is the epoch where this is best. Never a test/ metric."""
    direction: str = "min"
    """min or max."""


@dataclass(slots=True, kw_only=True)
class LoggerConfig:
    """What is written besides metrics.csv, which always is."""

    tensorboard: bool = False
    """Write TensorBoard files into the run's folder, beside metrics.csv."""


@dataclass(slots=True, kw_only=True)
class LossConfig:
    """Cross-entropy, and what is added to it."""

    label_smoothing: float = 0.0
    """Share of each target spread evenly over all classes."""
    class_weights: ClassWeights = ClassWeights.none
    """balanced: each class weighs in inverse proportion to its images."""


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
    freeze: Any = "backbone"
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
    """Cross-entropy, and what is added to it."""
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
