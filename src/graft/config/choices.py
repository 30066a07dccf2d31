"""The words a user may choose among, where the choice is closed."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal

AUTO: Final = "auto"
FIND: Final = "find"

Freeze = str | list[str]
"""A stage expression (none, backbone, layer3, layer1-3, joined by +), or literal name prefixes."""
Policy = Literal["none", "trivial", "rand", "augmix"]
Rate = float | Literal["find"]
BatchSize = int | Literal["auto"]
Epochs = int | Literal["auto"]
Acceptance = Literal["duplicates", "contradictions", "groups"]
Accelerator = Literal["auto", "cpu", "gpu"]
Activation = Literal["relu", "gelu", "silu", "tanh", "hardswish"]
Direction = Literal["min", "max"]
Epoch = Literal["best", "last"]
FeatureType = Literal["float32", "float16", "bfloat16"]
HeadNorm = Literal["none", "batch", "layer"]
Interpolation = Literal["bilinear", "bicubic", "nearest"]
KerasDifference = Literal["padding", "strides", "bgr", "averaging", "activation", "layers"]
Match = Literal["name", "structure", "table", "auto"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
Profiler = Literal["shares", "torch"]
Strategy = Literal["auto", "ddp", "fsdp"]
StepSearch = Literal["off", "auto"]
Wandb = Literal["off", "offline", "online"]


class Mode(Enum):
    train = "train"
    plan = "plan"


class Library(Enum):
    torchvision = "torchvision"
    timm = "timm"
    custom = "custom"


class DonorKind(Enum):
    pretrained = "pretrained"
    file = "file"
    run = "run"
    keras = "keras"
    none = "none"


class HeadSolver(Enum):
    """How a linear head on kept features is trained."""

    auto = "auto"
    convex = "convex"
    sgd = "sgd"


class HeadStart(Enum):
    """What a linear head begins with when the trunk trains too."""

    auto = "auto"
    solved = "solved"
    random = "random"


class HeadKind(Enum):
    linear = "linear"
    mlp = "mlp"
    none = "none"
    custom = "custom"
    stages = "stages"
    auto = "auto"


class Taps(Enum):
    block = "block"
    stage = "stage"


class FreezeBatchNorm(Enum):
    frozen = "frozen"
    all = "all"
    none = "none"


class UnfreezeKind(Enum):
    never = "never"
    gradual = "gradual"
    lp_ft = "lp_ft"
    at = "at"
    plateau = "plateau"
    custom = "custom"


class SchedulerKind(Enum):
    constant = "constant"
    cosine = "cosine"
    one_cycle = "one_cycle"
    step = "step"
    custom = "custom"


class DataKind(Enum):
    solar_cells = "solar_cells"
    folder = "folder"
    csv = "csv"
    custom = "custom"


class TaskKind(Enum):
    single_label = "single_label"
    multi_label = "multi_label"
    regression = "regression"


class Targets(Enum):
    hard = "hard"
    soft = "soft"


class Resize(Enum):
    crop = "crop"
    squash = "squash"
    letterbox = "letterbox"
    pad = "pad"


class OnError(Enum):
    stop = "stop"
    skip = "skip"


class CacheKind(Enum):
    auto = "auto"
    none = "none"
    features = "features"
    images = "images"


class ClassWeights(Enum):
    none = "none"
    balanced = "balanced"


class LossKind(Enum):
    task = "task"
    focal = "focal"
    logit_adjusted = "logit_adjusted"
    custom = "custom"


class RegressionLoss(Enum):
    mse = "mse"
    smooth_l1 = "smooth_l1"
