"""The config of the images: data, augmentation, cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import MISSING

from graft.config.choices import (
    AUTO,
    Acceptance,
    BatchSize,
    CacheKind,
    DataKind,
    FeatureType,
    OnError,
    Policy,
    Resize,
    Targets,
    TaskKind,
)


@dataclass(slots=True, kw_only=True)
class DataConfig:
    """The images and their classes."""

    kind: DataKind = MISSING
    """Source of the images; each option of the group sets it."""
    task: TaskKind = TaskKind.single_label
    """What is predicted for an image: one class (single_label), any number of labels (multi_label, data=csv) or numbers
    (regression, data=csv or solar_cells)."""
    separator: str = ";"
    """multi_label: separator between the names in the column label; an empty cell means no label."""
    columns: list[str] = field(default_factory=list)
    """regression, data=csv: the columns with the numbers to predict. Empty: label."""
    root: str | None = None
    """folder: the folder; csv: the file, to which its paths are relative; custom: the folder that paths are relative
    to, otherwise the current one."""
    target: str | None = None
    """custom: import path of a function target(**kwargs) that returns a row for each image: a mapping with path, label
    and perhaps split, or these as a tuple, or a pandas DataFrame of them."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """custom: arguments of target."""
    train: str = "train"
    """folder: name of the folder with training images."""
    val: str = "val"
    """folder: name of the folder with validation images."""
    test: str = "test"
    """folder: name of the folder with test images."""
    val_fraction: float = 0.15
    """Fraction of the training images used for validation, if there are no validation images."""
    test_fraction: float = 0.0
    """folder and csv without test images: fraction used for testing."""
    folds: int | None = None
    """Cross-validation: all images outside the test part are shared out over so many folds, by content. A head that is
    solved is solved once without each; a network that is trained takes data.fold."""
    fold: int | None = None
    """With data.folds: the fold that is the validation part, counted from 0; to be swept over. Null: every one in
    turn, where the head is solved."""
    split_seed: int = 0
    """Seed of the split. Independent of the run's seed, so runs with different seeds use the same split."""
    image_size: int | None = None
    """Side of the network input, in pixels. Null: the donor's."""
    crop_fraction: float | None = None
    """resize=crop: side of the centre crop divided by the image's shorter edge. 1: the largest square, which is the
    whole image only if that is square. Null: the donor's."""
    resize: Resize = Resize.crop
    """How an image becomes a square. crop: the centre is cropped. The others keep the whole image: squash changes its
    proportions; letterbox adds borders in the donor's mean colour, pad borders that repeat the outermost pixels."""
    channels: int = 3
    """Number of channels; other than 3 adapts the first layer, the donor's first layer, and mean and std together."""
    reduced_jpeg: bool = True
    """Decode a JPEG whose shorter edge is at least four times the resize target at a half, a quarter or an eighth of
    its size, but at least twice the target; false: decode every JPEG at full size, as the donor's images were."""
    batch_size: BatchSize = 32
    """Images per step and device; auto: as many as are estimated to fit into its free memory, up to 256."""
    num_workers: int | None = None
    """Number of data-loader processes. Null: chosen for the machine."""
    targets: Targets = Targets.hard
    """single_label: hard labels, or soft: the annotated probabilities, if the data has them."""
    balanced: bool = False
    """single_label: sample each class equally often."""
    on_error: OnError = OnError.stop
    """An unreadable image: stop the run, or skip the image, with a count and a list."""
    exclude: str | None = None
    """CSV file of images to leave out: a column path, absolute or relative to data.root, as graft audit --csv
    writes it."""
    relabel: str | None = None
    """CSV file of labels to correct: a column path as in data.exclude, and the label in the column proposal, or label
    where there is no such column (in regression: data.columns)."""
    accept: list[Acceptance] = field(default_factory=list[Acceptance])
    """Faults in the data to accept: duplicates (the same image, by bytes or pixels, in two parts), contradictions (the
    same image under two labels), groups (a group of data.group in two parts). The plan counts them; copies.csv and
    groups.csv in the run's folder list them."""
    group: str | None = None
    """What images belong together (of one patient, plate or camera), so that all of them are in one part: csv: the name
    of a column; or a regular expression searched for in each path, of which the group named group, or the first group,
    counts. Null: each image is its own."""

    @property
    def images(self) -> int:
        """Images per step and device as a number.

        Raises:
            ValueError: the batch size is still to be chosen.
        """
        if self.batch_size == AUTO:
            raise ValueError("data.batch_size: expected a number, received auto; try plan.memory.with_batch_size first")
        return self.batch_size


@dataclass(slots=True, kw_only=True)
class AugmentConfig:
    """Augmentation of the training images; everything is off by default."""

    name: str = MISSING
    """Name of the preset, for the record."""
    hflip: float = 0.0
    """Probability of a horizontal flip."""
    vflip: float = 0.0
    """Probability of a vertical flip."""
    quarter_turns: bool = False
    """Rotate by 0, 90, 180 or 270 degrees with equal probability."""
    crop_scale: list[float] | None = None
    """Random resized crop: smallest and largest fraction of the area."""
    rotate: float = 0.0
    """Random rotation: largest angle in degrees."""
    jitter: float = 0.0
    """Random brightness and contrast: largest relative change of each."""
    policy: Policy = "none"
    """Augmentation policy for grey or RGB images: trivial, one operation at a random strength (TrivialAugment, Müller &
    Hutter 2021); rand, two operations at a strength of 9 of 30 (RandAugment, Cubuk et al. 2020); augmix, mixed chains
    of operations (AugMix, Hendrycks et al. 2020); none."""
    target: str | None = None
    """Import path of an augmentation of your own, or of a library's: a class that is made with kwargs, or a function
    target(image, **kwargs). It receives the cropped image, after the augmentations above (augment=custom)."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of target."""
    erase: float = 0.0
    """Probability of erasing a random rectangle."""
    mixup: float = 0.0
    """Mixup: blends each image and target with another's, by a ratio from Beta(α, α); this is α (Zhang et al. 2018)."""
    cutmix: float = 0.0
    """CutMix: replaces a box of each image with another's and mixes the targets by area; α as for mixup (Yun et al.
    2019). With mixup and cutmix, each is used with equal probability."""
    mix_per: Literal["batch", "sample"] = "batch"
    """mixup and cutmix: one ratio and box per batch, or one per sample."""


@dataclass(slots=True, kw_only=True)
class CacheConfig:
    """What is computed once and cached on disk."""

    kind: CacheKind = MISSING
    """What is cached; each option of the group sets it."""
    dir: str = "outputs/cache"
    """Folder of the cache, shared by all runs that use it."""
    max_gb: float = 20.0
    """Maximum size of the cache in GB."""
    dtype: FeatureType = "float32"
    """features: type of the training images' features, float32, float16 or bfloat16; all others are float32."""
    views: int = 0
    """features: number of cached augmented views of each training image; epoch e trains on view e modulo views.
    0: no views, which requires training without random augmentation."""
