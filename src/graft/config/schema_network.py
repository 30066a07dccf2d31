"""The config of the network: backbone, donor, head."""

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
    """The donor's preprocessing. Null: the value that the library publishes for this backbone."""

    image_size: int | None = None
    """Side of the square network input, in pixels."""
    crop_fraction: float | None = None
    """image_size divided by the length to which the image's shorter edge is resized."""
    interpolation: Interpolation | None = None
    """bilinear, bicubic or nearest."""
    mean: list[float] | None = None
    """Mean per channel, for values from 0 to 1."""
    std: list[float] | None = None
    """Standard deviation per channel, for values from 0 to 1."""


@dataclass(slots=True, kw_only=True)
class PublishedConfig:
    """Where a backbone's published weights are, if its library does not say, and how their names map to the
    backbone's."""

    weights: str | None = None
    """Which of the library's weights: a member of torchvision's enum (IMAGENET1K_V1) or a tag of timm. Null: the
    default."""
    package: str | None = None
    """An installed Python package that contains the file."""
    file: str | None = None
    """The file inside that package."""
    rename: list[list[str]] = field(default_factory=list)
    """Ordered [pattern, replacement] pairs that turn donor names into backbone names."""
    ignore: list[str] = field(default_factory=list)
    """Globs of donor names that the backbone does not have (auxiliary classifiers, say)."""
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    """The preprocessing that these weights were trained with."""


@dataclass(slots=True, kw_only=True)
class ApplicationConfig:
    """The same network in Keras' applications: its names, layers and preprocessing (donor=keras)."""

    rename: list[list[str]] = field(default_factory=list)
    """Ordered [pattern, replacement] pairs that turn Keras' names into the backbone's. Other names stay unchanged."""
    ignore: list[str] = field(default_factory=list)
    """Globs of Keras' tensors that the backbone does not have (the statistics of an input layer, say)."""
    settled: list[str] = field(default_factory=list)
    """Hidden differences that do not apply to this backbone (padding, if it pads like TensorFlow)."""
    flatten: dict[str, int] = field(default_factory=dict)
    """Like donor.keras.flatten, for files without a model config; 0 for a layer behind global pooling."""
    fold_bias: bool = False
    """Keras' convolutions before a batch-norm have a bias, and the backbone's do not."""
    adapt: dict[str, Any] = field(default_factory=dict)
    """Like donor.adapt, for tensors whose shape differs in Keras."""
    alter: dict[str, Any] = field(default_factory=dict)
    """Like backbone.alter: makes the backbone compute what Keras' network does, unless donor.keras.accept allows the
    difference."""
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    """The preprocessing that Keras' published weights were trained with."""


@dataclass(slots=True, kw_only=True)
class BackboneConfig:
    """The pretrained trunk: a model of torchvision or timm by name, or one of your own by import path."""

    library: Library = MISSING
    """torchvision, timm, or custom: the module that target builds."""
    name: str = MISSING
    """The model's name in its library."""
    target: str | None = None
    """Import path of a function or class that builds a module; called as target(num_classes=…, **kwargs), and with
    in_chans, in_channels or channels if it has such a parameter (backbone=custom)."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the library's constructor (aux_logits, attention_dropout, …), or of target."""
    drop_path: float | None = None
    """Stochastic depth: the drop rate of the last block; it increases linearly from the first (Huang et al. 2016)."""
    drop_rate: float | None = None
    """Rate of the backbone's own dropout, before its last layer or elsewhere (Srivastava et al. 2014)."""
    alter: dict[str, Any] = field(default_factory=dict)
    """Changes to the library's layers, by glob of module names: {stride: n}, {padding: same} or {border: left_out}."""
    stages: dict[str, list[str]] = field(default_factory=dict)
    """Module-name prefixes of each stage, in forward order. Empty: derived from the module tree."""
    head: str | None = None
    """Name of the last layer, which a new head replaces. Null: the layer whose shape depends on the number of
    classes."""
    pool: str | None = None
    """Module that a head with hidden layers replaces with global average pooling (VGG, AlexNet)."""
    classifier: str | None = None
    """Module that a head with hidden layers replaces, if it is more than the last layer (VGG's fc6 and fc7)."""
    published: PublishedConfig = field(default_factory=PublishedConfig)
    """Its published weights, if the library does not provide them (donor=pretrained)."""
    keras: ApplicationConfig = field(default_factory=ApplicationConfig)
    """The same network in Keras' applications (donor=keras)."""

    def __post_init__(self) -> None:
        """A backbone of one's own is called by its import path, in plans, records and messages."""
        if self.library is Library.custom and self.target:
            self.name = self.target


@dataclass(slots=True, kw_only=True)
class KerasConfig:
    """What a Keras file does not contain, and which hidden differences are accepted."""

    layers: dict[str, str] = field(default_factory=dict)
    """Class (conv2d, depthwise_conv2d, dense, …) by glob of layer names, if the file has no model config."""
    flatten: dict[str, int] = field(default_factory=dict)
    """For a layer behind a Flatten, the channels of the flattened feature map (0: no Flatten), if the file has no model
    config."""
    absent: dict[str, Literal["gamma", "beta"]] = field(default_factory=dict[str, Literal["gamma", "beta"]])
    """The missing variable (gamma or beta) by glob of norm layers, if the file has no model config."""
    epsilon: float | None = None
    """The batch-norms' epsilon, if the file has no model config. Null: Keras' default, 0.001."""
    fold_bias: bool = False
    """Fold a convolution's bias into the batch-norm behind it, for a backbone whose convolutions have no bias."""
    input: Literal["rgb", "bgr"] = "rgb"
    """bgr: the donor was trained on BGR images; its first convolution is reordered to RGB."""
    accept: list[KerasDifference] = field(default_factory=list[KerasDifference])
    """Accepted differences from Keras' function: padding, strides, bgr, averaging, activation, layers."""


@dataclass(slots=True, kw_only=True)
class DonorConfig:
    """The source of the weights, and how their names and shapes map to the network's."""

    kind: DonorKind = MISSING
    """Kind of source; each option of the group sets it."""
    path: str | None = None
    """Path of a weights file, a run folder or a Keras file (donor=file|run|keras)."""
    sha256: str | None = None
    """SHA-256 hash that the donor file must have."""
    verify: bool = False
    """Pass a probe batch through the donor's own model and the new trunk; train only if their outputs agree."""
    match: Match = "name"
    """name, structure, table, or auto: print rules that would explain the names, and stop."""
    rename: list[list[str]] = field(default_factory=list)
    """Ordered [pattern, replacement] pairs, applied with re.sub to donor names."""
    table: dict[str, str] = field(default_factory=dict)
    """match=table: the target name for each donor name, in full."""
    skip: list[str] = field(default_factory=list)
    """Globs of target names that keep their initial values instead of the donor's."""
    ignore: list[str] = field(default_factory=list)
    """Globs of donor names that are not used."""
    adapt: dict[str, Any] = field(default_factory=dict)
    """By glob of target names, the name of an adapter, or {name: …, its options}."""
    cast: bool = False
    """Convert a donor of another floating-point type (float16 to float32); the ledger records it."""
    container: str | None = None
    """The entry of the file that holds the tensors (state_dict, model, …), if there are several."""
    ema: bool = False
    """Use the averaged weights (state_dict_ema, model_ema) if the file has both."""
    keras: KerasConfig = field(default_factory=KerasConfig)
    """What a Keras file does not contain (donor=keras)."""
    class_map: Literal["names"] | None = None
    """names: keep the head's rows for the classes that donor and data share."""


@dataclass(slots=True, kw_only=True)
class HeadConfig:
    """The new layers on top of the trunk; the data determine the number of outputs."""

    kind: HeadKind = MISSING
    """Kind of head; each option of the group sets it."""
    solver: HeadSolver = HeadSolver.auto
    """How a head on a frozen trunk is trained. convex: a linear head, solved for a path of L2 penalties; sgd: by steps
    of the optimizer; auto: solved if possible, and hidden layers by steps with early stopping."""
    start: HeadStart = HeadStart.auto
    """Initial weights of a linear head when the trunk trains too. solved: solved on the donor's features (LP-FT, Kumar
    et al. 2022), and restored if training ends with worse results; random: newly initialised; auto: solved with
    unfreeze=lp_ft, otherwise random."""
    refit: bool = False
    """After choosing the penalty, solve the head again on training and validation images together."""
    hidden: list[int] = field(default_factory=list)
    """Widths of the hidden layers (head=mlp)."""
    decays: list[float] = field(default_factory=list[float])
    """Weight decays for head=mlp: the hidden layers are trained once with each, and the best by validation loss is
    used. Empty: only optimizer.weight_decay."""
    patience: int = 10
    """Early stopping for head=mlp: training ends when the validation loss has not improved for this many epochs."""
    dropout: float = 0.0
    """Dropout rate before the last layer and after each hidden layer."""
    activation: Activation = "relu"
    """Activation: relu, gelu, silu, tanh or hardswish (head=mlp)."""
    norm: HeadNorm = "none"
    """Normalisation: none, batch or layer (head=mlp)."""
    target: str | None = None
    """Import path of a module class; called as target(in_features, num_classes, **kwargs) (head=custom)."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of target (head=custom)."""
    pool: list[str] = field(default_factory=lambda: ["mean", "std"])
    """Statistics of each feature map, or of the tokens: mean, std, max (head=stages)."""
    taps: Taps = Taps.block
    """block: the output of every block; stage: the output of the last block of every stage (head=stages)."""
