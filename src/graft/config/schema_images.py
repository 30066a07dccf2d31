"""The images as a user describes them: data, augmentation, cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

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
    Targets,
    TaskKind,
)


@dataclass(slots=True, kw_only=True)
class DataConfig:
    """The images and their classes."""

    kind: DataKind = MISSING
    """What the images are read from; each option of the group sets it."""
    task: TaskKind = TaskKind.single_label
    """What is said of an image: its one class (single_label), any number of labels (multi_label, data=csv) or numbers
    (regression, data=csv or solar_cells)."""
    separator: str = ";"
    """multi_label: what stands between the names in the column label; an empty cell has none."""
    columns: list[str] = field(default_factory=list)
    """regression from csv: the columns of numbers to learn. Empty: label."""
    root: str | None = None
    """folder: the folder; csv: the file, its paths relative to it."""
    train: str = "train"
    """folder: name of the training part's folder."""
    val: str = "val"
    """folder: name of the validation part's folder."""
    test: str = "test"
    """folder: name of the test part's folder."""
    val_fraction: float = 0.15
    """Share of the training part carved off for validation, where there is none."""
    test_fraction: float = 0.0
    """folder and csv with no test part: share carved off for testing."""
    split_seed: int = 0
    """Which images a carved part gets. Not the run's seed: runs that differ in seed share their parts."""
    image_size: int | None = None
    """Side in pixels. Null: the donor's."""
    crop_fraction: float | None = None
    """Share of each side that the centre crop keeps after resizing; 1 keeps the whole image. Null: the donor's."""
    channels: int = 3
    """1, 3 or more; other than 3 changes the first layer, the donor's first layer and mean/std together."""
    reduced_jpeg: bool = True
    """A JPEG whose shorter edge is four times what it is resized to, or longer, is decoded at a half, a quarter or an
    eighth of its size, at least twice what it is resized to; false: every JPEG whole, as the donor's images were."""
    batch_size: BatchSize = 32
    """Images per step and device; auto: as many as its free memory is estimated to hold, up to 256."""
    num_workers: int | None = None
    """Loader processes. Null: chosen for the machine."""
    targets: Targets = Targets.hard
    """single_label: soft takes the annotated probabilities, where the data has them."""
    balanced: bool = False
    """single_label: draw each class equally often."""
    on_error: OnError = OnError.stop
    """An unreadable image stops the run, or is left out, counted and listed."""
    accept: list[Acceptance] = field(default_factory=list[Acceptance])
    """What is refused otherwise: duplicates (an image in two parts, by its bytes or pixels), contradictions (the same
    image under two labels). The plan counts them; copies.csv in the run's folder lists them."""

    @property
    def images(self) -> int:
        """Images per step and device, where the batch size is a number.

        Raises:
            ValueError: it is still to be chosen.
        """
        if self.batch_size == AUTO:
            raise ValueError("data.batch_size: expected a number, received auto; try plan.memory.with_batch_size first")
        return self.batch_size


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
    policy: Policy = "none"
    """Colours, contrasts, turns and shears by a policy of the field: trivial, one at any strength (TrivialAugment,
    Müller & Hutter 2021); rand, two at a strength of 9 of 30 (RandAugment, Cubuk et al. 2020); augmix, mixed chains
    of them (AugMix, Hendrycks et al. 2020); none. Of grey or RGB images."""
    erase: float = 0.0
    """Probability of a random erased rectangle."""
    mixup: float = 0.0
    """Blends each image and target with another's, by a share from Beta(α, α); this is α (Zhang et al. 2018)."""
    cutmix: float = 0.0
    """Covers a box of each image with another's, and mixes the targets by area; α as for mixup (Yun et al. 2019).
    With both, each is as likely."""
    mix_per: Literal["batch", "sample"] = "batch"
    """mixup and cutmix: one share and box for a whole batch, or one per sample (batch or sample)."""


@dataclass(slots=True, kw_only=True)
class CacheConfig:
    """What is computed once and kept on disk."""

    kind: CacheKind = MISSING
    """What is kept on disk; each option of the group sets it."""
    dir: str = "outputs/cache"
    """Shared by every run that names it."""
    max_gb: float = 20.0
    """Nothing is written beyond this."""
    dtype: FeatureType = "float32"
    """features of training images: float32, float16 or bfloat16; those of the others are float32."""
    views: int = 0
    """features: keep this many augmented views of each training image; epoch e trains on view e modulo views.
    0: none, for which training must have no random augmentation."""
