"""The network as a user describes it: backbone, donor, head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import MISSING

from graft.config.choices import (
    Activation,
    DonorKind,
    HeadKind,
    HeadNorm,
    HeadSolver,
    HeadStart,
    Interpolation,
    KerasDifference,
    Library,
    Match,
    Taps,
)


@dataclass(slots=True, kw_only=True)
class PreprocessConfig:
    """How the donor saw its images. A null means: as the library publishes it for this backbone."""

    image_size: int | None = None
    """Side of the square that enters the network, in pixels."""
    crop_fraction: float | None = None
    """Side of that square over the side the image's shorter edge is resized to."""
    interpolation: Interpolation | None = None
    """bilinear, bicubic or nearest."""
    mean: list[float] | None = None
    """Per channel, for values from 0 to 1."""
    std: list[float] | None = None
    """Per channel, for values from 0 to 1."""


@dataclass(slots=True, kw_only=True)
class PublishedConfig:
    """Where a backbone's published weights lie, when its library does not say, and how their names map."""

    weights: str | None = None
    """Which of its library's: a member of torchvision's enum (IMAGENET1K_V1), a tag of timm's. Null: its default."""
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
class ApplicationConfig:
    """The same network among Keras' applications: how it spells, builds and feeds it (donor=keras)."""

    rename: list[list[str]] = field(default_factory=list)
    """Ordered [pattern, replacement] pairs: Keras' names to the backbone's. Other names stay as they are."""
    ignore: list[str] = field(default_factory=list)
    """Globs of Keras' tensors that the backbone has no place for (the statistics of an input layer, say)."""
    settled: list[str] = field(default_factory=list)
    """Hidden differences that this backbone does not have: padding, where it pads as TensorFlow does."""
    flatten: dict[str, int] = field(default_factory=dict)
    """As donor.keras.flatten, for files without a model config: what stands behind pooling has 0."""
    fold_bias: bool = False
    """Keras' convolutions have a bias in front of a batch-norm, and the backbone's have none."""
    adapt: dict[str, Any] = field(default_factory=dict)
    """As donor.adapt, where Keras keeps a tensor in another shape."""
    alter: dict[str, Any] = field(default_factory=dict)
    """As backbone.alter: how the backbone computes what Keras' network does. donor.keras.accept leaves it as it is."""
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    """How Keras' published weights saw their images."""


@dataclass(slots=True, kw_only=True)
class BackboneConfig:
    """The pretrained trunk: a model of torchvision or timm, by name."""

    library: Library = MISSING
    """torchvision or timm."""
    name: str = MISSING
    """The model's name in its library."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the library's constructor (aux_logits, attention_dropout, …)."""
    drop_path: float | None = None
    """Stochastic depth: the rate at which the last block is skipped in training, rising to it (Huang et al. 2016)."""
    drop_rate: float | None = None
    """The backbone's own dropout, before its last layer or where else it has one (Srivastava et al. 2014)."""
    alter: dict[str, Any] = field(default_factory=dict)
    """Glob of modules to what the library sets otherwise: {stride: n}, {padding: same} or {border: left_out}."""
    stages: dict[str, list[str]] = field(default_factory=dict)
    """Stage name to module-name prefixes, in forward order. Empty: derived from the module tree."""
    head: str | None = None
    """Name of the last layer, which a new head replaces. Null: found by what changes shape with the class count."""
    pool: str | None = None
    """Module that a head with hidden layers turns into global average pooling (VGG, AlexNet)."""
    classifier: str | None = None
    """Module that a head with hidden layers replaces, when it is more than the last layer (VGG's fc6 and fc7)."""
    published: PublishedConfig = field(default_factory=PublishedConfig)
    """Its published weights, where the library does not name them (donor=pretrained)."""
    keras: ApplicationConfig = field(default_factory=ApplicationConfig)
    """The same network among Keras' applications (donor=keras)."""


@dataclass(slots=True, kw_only=True)
class KerasConfig:
    """What a Keras file does not say of itself, and which hidden differences are accepted."""

    layers: dict[str, str] = field(default_factory=dict)
    """Glob of layer names to their class (conv2d, depthwise_conv2d, dense, …), where the file has no model config."""
    flatten: dict[str, int] = field(default_factory=dict)
    """Layer behind a Flatten to the flattened map's channels (0: behind none), where the file has no model config."""
    absent: dict[str, Literal["gamma", "beta"]] = field(default_factory=dict[str, Literal["gamma", "beta"]])
    """Glob of norm layers to the variable they lack (gamma or beta), where the file has no model config."""
    epsilon: float | None = None
    """The batch-norms' epsilon, where the file has no model config. Null: Keras' default, 0.001."""
    fold_bias: bool = False
    """Take a convolution's bias off the batch-norm behind it, for a backbone whose convolutions have none."""
    input: Literal["rgb", "bgr"] = "rgb"
    """bgr: the donor read blue, green, red; its first convolution is turned round."""
    accept: list[KerasDifference] = field(default_factory=list[KerasDifference])
    """Differences from Keras' function that may stay: padding, strides, bgr, averaging, activation, layers."""


@dataclass(slots=True, kw_only=True)
class DonorConfig:
    """Where the weights come from, and how their names and shapes map to the network's."""

    kind: DonorKind = MISSING
    """Where the donor comes from; each option of the group sets it."""
    path: str | None = None
    """File, run folder or Keras file (donor=file|run|keras)."""
    sha256: str | None = None
    """The donor file must have this hash."""
    verify: bool = False
    """Run a probe batch through the donor's own model and the new trunk; train only if they agree."""
    match: Match = "name"
    """name, structure, table, or auto: print the rules that would explain the names, and stop."""
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
    cast: bool = False
    """Take a donor of another floating-point precision (float16 into float32); the ledger says so."""
    container: str | None = None
    """Which entry of the file holds the tensors (state_dict, model, …), when there is a choice."""
    ema: bool = False
    """Take the averaged weights (state_dict_ema, model_ema) where the file has both."""
    keras: KerasConfig = field(default_factory=KerasConfig)
    """What a Keras file does not say of itself (donor=keras)."""
    class_map: Literal["names"] | None = None
    """names: keep the head's rows of classes that donor and data share."""


@dataclass(slots=True, kw_only=True)
class HeadConfig:
    """The new layers on top of the trunk; the data decide the class count."""

    kind: HeadKind = MISSING
    """What the new layers are; each option of the group sets it."""
    solver: HeadSolver = HeadSolver.auto
    """How a linear head on a frozen trunk is trained. convex: solved, over a path of penalties; sgd: by steps of the
    optimizer; auto: solved where it can be."""
    start: HeadStart = HeadStart.auto
    """What a linear head begins with when the trunk trains too. solved: the head that is solved on the donor's features
    (LP-FT, Kumar et al. 2022), whose weights come back if training ends below it; random: fresh values; auto: solved
    with unfreeze=lp_ft, else random."""
    refit: bool = False
    """Once the penalty is chosen, solve the head again on training and validation images together."""
    hidden: list[int] = field(default_factory=list)
    """Widths of the hidden layers (head=mlp)."""
    dropout: float = 0.0
    """Before the last layer, and after each hidden one."""
    activation: Activation = "relu"
    """relu, gelu, silu, tanh or hardswish (head=mlp)."""
    norm: HeadNorm = "none"
    """none, batch or layer (head=mlp)."""
    target: str | None = None
    """Import path of a module class called as target(in_features, num_classes, **kwargs) (head=custom)."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of target (head=custom)."""
    pool: list[str] = field(default_factory=lambda: ["mean", "std"])
    """What is taken of each map or of the tokens: mean, std, max (head=stages)."""
    taps: Taps = Taps.block
    """block: the output of every block; stage: that of every stage's last one (head=stages)."""
