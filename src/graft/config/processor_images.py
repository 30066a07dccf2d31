"""How a donor of Hugging Face's saw its images: what preprocessor_config.json beside its weights says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from graft.config.choices import DonorKind, Interpolation
from graft.config.faults import InputError
from graft.config.schema import DonorConfig, PreprocessConfig

PROCESSOR = "preprocessor_config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
_MOST_BYTES = 2**20
_INTERPOLATIONS: dict[int, Interpolation] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""
_WARPED_FROM = 384
"""ConvNeXt's processor crops smaller images out of larger ones, and takes these as they are."""


def fill_from_processor(donor: DonorConfig, own: PreprocessConfig) -> None:
    """Fills `own` (backbone.published.preprocess) for donor=file from the file beside it; what the user gave stays.

    Raises:
        InputError: The file is damaged, or says what graft does not do.
    """
    if donor.kind is not DonorKind.file or donor.path is None:
        return
    record = json_beside(donor.path, PROCESSOR)
    if record is not None:
        theirs = _Processor(record, Path(donor.path)).preprocess(own)
        for name in (each.name for each in fields(PreprocessConfig)):
            if getattr(own, name) is None:
                setattr(own, name, getattr(theirs, name))


def json_beside(donor: str, name: str) -> dict[str, Any] | None:
    """A JSON file of transformers' in a donor's folder, or beside weights that have the name which transformers gives.

    Raises:
        InputError: It is there and cannot be read.
    """
    path = Path(donor).expanduser()
    try:
        folder = path if path.is_dir() else path.parent if path.name in _WEIGHTS else None
        file = None if folder is None else folder / name
        if file is None or not file.is_file():
            return None
        with open(file, "rb") as opened:
            text = opened.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        content: Any = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"JSON of another kind, {type(content).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"donor.path: expected {name} beside the weights as a JSON object, received {str(error).splitlines()[0]}; "
            "try a fresh copy of it, or the weights in a folder without it"
        ) from error
    return content


class _Processor:
    """What an image processor does, from its settings."""

    def __init__(self, record: Mapping[str, Any], donor: Path) -> None:
        self.record, self.donor = record, donor

    def preprocess(self, own: PreprocessConfig) -> PreprocessConfig:
        """The settings in graft's words, as far as `own` leaves them open."""
        mean, std = self._normalization()
        size, fraction = self._sizes()
        interpolation = None if own.interpolation else self._interpolation()
        return PreprocessConfig(
            image_size=size, crop_fraction=fraction, interpolation=interpolation, mean=mean, std=std
        )

    def _normalization(self) -> tuple[list[float] | None, list[float] | None]:
        """Mean and std for values from 0 to 1; the processor's are for what its own scale makes of 0 to 255."""
        factor = self._number("rescale_factor", 1 / 255) if self.record.get("do_rescale", True) else 1.0
        if self.record.get("do_normalize", True) is False:
            mean, std = [0.0] * 3, [1.0] * 3
        elif "image_mean" not in self.record and "image_std" not in self.record:
            return None, None
        else:
            mean, std = self._channels("image_mean", least=-math.inf), self._channels("image_std", least=0.0)
        scale = 255 * factor
        if math.isclose(scale, 1.0, rel_tol=1e-6):
            return mean, std
        return [value / scale for value in mean], [value / scale for value in std]

    def _sizes(self) -> tuple[int | None, float | None]:
        """Side of the square that enters the network, and its share of the side that the image is resized to."""
        if not self.record.get("do_resize", True):
            return (self._side("crop_size") if self.record.get("do_center_crop") else None), None
        size = self._side("size")
        if size is None:
            return None, None
        if "crop_pct" in self.record:
            return size, 1.0 if size >= _WARPED_FROM else self._number("crop_pct", 1.0, most=1.0)
        crop = self._side("crop_size") if self.record.get("do_center_crop") else None
        return (size, 1.0) if crop is None or crop >= size else (crop, crop / size)

    def _interpolation(self) -> Interpolation | None:
        number = self.record.get("resample")
        if number is None:
            return None
        if isinstance(number, int) and number in _INTERPOLATIONS:
            return _INTERPOLATIONS[number]
        raise self._refused("resample", "0, 2 or 3 (nearest, bilinear, bicubic)", number,
                            "backbone.published.preprocess.interpolation=bicubic")  # fmt: skip

    def _side(self, key: str) -> int | None:
        """A side in pixels: a number, or a mapping with the shortest edge or both sides."""
        value = self.record.get(key)
        if isinstance(value, Mapping):
            value = value.get("shortest_edge") or value.get("height")
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**16:
            raise self._refused(key, "a side in pixels", value, "data.image_size=224 and a file without it")
        return value

    def _channels(self, key: str, *, least: float) -> list[float]:
        values = self.record.get(key)
        if isinstance(values, list) and len(values) == 3 and all(_is_number(each) and each > least for each in values):
            return [float(each) for each in values]
        wanted = "three numbers" if least < 0 else "three numbers above 0"
        raise self._refused(key, wanted, values, "a fresh copy of it")

    def _number(self, key: str, default: float, *, most: float = math.inf) -> float:
        value = self.record.get(key, default)
        if _is_number(value) and 0 < value <= most:
            return float(value)
        raise self._refused(key, "a number above 0" + (f", at most {most:g}" if math.isfinite(most) else ""), value,
                            "a fresh copy of it")  # fmt: skip

    def _refused(self, key: str, expected: str, received: object, remedy: str) -> InputError:
        return InputError(
            f"donor.path: expected {key} of {PROCESSOR} as {expected}, received {str(received)[:80]!r}; try {remedy}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30  # NaN is not
