"""Recognises the networks of keras.applications by the structure of their layers.

A file of weights alone contains neither the padding of a layer nor the epsilon of a batch-norm. Both follow from the
network, which is recognised by whole blocks of layers with their kernel sizes, never by a single name.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from graft.transfer.donors.keras.layers import Shape


class Caution(Enum):
    """A hidden difference; the value is the word for donor.keras.accept."""

    padding = "padding"
    strides = "strides"
    bgr = "bgr"
    averaging = "averaging"
    activation = "activation"
    layers = "layers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Networks with the same architecture, whatever their depth and width."""

    name: str
    parts: Mapping[str, int | None]
    """Kernel size by pattern of layer names; None if they have no kernel. Each pattern must occur."""
    without: str = ""
    """Patterns of layer names that must not occur."""
    windows: Mapping[tuple[int, ...], int] = field(default_factory=dict[tuple[int, ...], int])
    """Number of convolutions by kernel size, for families whose layers Keras names only by numbers."""
    epsilon: float = 1e-3
    """Epsilon of its batch-norms."""
    layer_epsilon: float = 1e-3
    """Epsilon of its layer-norms."""
    pooled: bool = True
    """Whether its dense layers follow global pooling, never a Flatten."""
    unscaled: bool = False
    """Whether its batch-norms with three variables have no gamma."""
    numbered: bool = False
    """Whether Keras names its layers only by numbers, which continue from model to model; here they count from 0."""
    cautions: frozenset[Caution] = frozenset()
    """How it differs from torch's layers with the same weights."""

    def includes(self, kernels: Mapping[str, Shape]) -> bool:
        """Whether a file with these first variables belongs to the family."""
        own = {name.rpartition(".")[2]: shape for name, shape in kernels.items()}
        if self.without and any(re.fullmatch(self.without, name) for name in own):
            return False
        counted = Counter(shape[:2] for shape in kernels.values() if len(shape) == 4)
        if self.windows and counted != self.windows:
            return False
        return all(_has(own, pattern, side) for pattern, side in self.parts.items())


def _has(kernels: Mapping[str, Shape], pattern: str, side: int | None) -> bool:
    shapes = [shape for name, shape in kernels.items() if re.fullmatch(pattern, name)]
    return bool(shapes) and all(side is None or (len(shape) == 4 and shape[:2] == (side, side)) for shape in shapes)


def family_of(kernels: Mapping[str, Shape]) -> Family | None:
    """The family of a file.

    Args:
        kernels: the shape of each layer's first variable, as in Keras.
    """
    return next((family for family in FAMILIES if family.includes(kernels)), None)


def numbered_from_zero(names: Sequence[str]) -> dict[str, str]:
    """Layers by the names that a new process would give them: conv2d, conv2d_1, … in the order of their numbers."""
    counted: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for name in names:
        container, dot, own = name.rpartition(".")
        match = re.fullmatch(r"([a-z][a-z0-9_]*?)(?:_(\d+))?", own)
        if match is not None and match[1] in _NUMBERED:
            counted[container + dot, match[1]].append((int(match[2] or 0), name))
    return {
        name: f"{container}{kind}_{place}" if place else f"{container}{kind}"
        for (container, kind), places in counted.items()
        for place, (_, name) in enumerate(sorted(places))
    }


_NUMBERED = ("conv2d", "batch_normalization", "separable_conv2d", "depthwise_conv2d")
_UNEVEN = frozenset({Caution.padding})
_BLOCK = r"conv[2-5]_block\d+"
_STAGE = r"\w*block[1-7][a-z]"
FAMILIES = (
    Family(
        name="VGG",
        parts={r"block1_conv[12]": 3, r"block[234]_conv\d": 3, r"block5_conv3": 3},
        without=r".*sepconv.*",
        pooled=False,
        cautions=frozenset({Caution.bgr}),
    ),
    Family(
        name="ResNet",
        parts={rf"{_BLOCK}_[013]_conv": 1, rf"{_BLOCK}_2_conv": 3, rf"{_BLOCK}_3_bn": None},
        without=r".*preact.*|post_bn",
        epsilon=1.001e-5,
        cautions=frozenset({Caution.strides, Caution.bgr}),
    ),
    Family(
        name="ResNet",  # as Keras named its layers before 2.2
        parts={r"res\d[a-z]\d*_branch(2[ac]|1)": 1, r"res\d[a-z]\d*_branch2b": 3, r"bn\d[a-z]\d*_branch2c": None},
        cautions=frozenset({Caution.strides, Caution.bgr}),
    ),
    Family(
        name="ResNetV2",
        parts={rf"{_BLOCK}_[013]_conv": 1, rf"{_BLOCK}_2_conv": 3, rf"{_BLOCK}_preact_bn": None, "post_bn": None},
        epsilon=1.001e-5,
    ),
    Family(
        name="DenseNet",
        parts={rf"{_BLOCK}_1_conv": 1, rf"{_BLOCK}_2_conv": 3, rf"{_BLOCK}_0_bn": None, r"pool[234]_conv": 1},
        without=rf"{_BLOCK}_3_conv",
        epsilon=1.001e-5,
    ),
    Family(
        name="MobileNet",
        parts={r"conv_dw_\d+": 3, r"conv_pw_\d+": 1, r"conv_pw_\d+_bn": None},
        cautions=_UNEVEN,
    ),
    Family(
        name="MobileNetV2",
        parts={r"(block_\d+|expanded_conv)_depthwise": 3, r"block_\d+_(expand|project)": 1, r"Conv_1": 1},
        cautions=_UNEVEN,
    ),
    Family(
        name="MobileNetV3",
        parts={r"expanded_conv(_\d+)?[_/]depthwise": None, r"expanded_conv_\d+[_/](expand|project)": 1, r"conv_1": 1},
        cautions=_UNEVEN,
    ),
    Family(
        name="EfficientNet",
        parts={rf"{_STAGE}_dwconv": None, rf"{_STAGE}_se_(reduce|expand)": 1, r"\w*stem_conv": 3, r"\w*top_conv": 1},
        cautions=_UNEVEN,
    ),
    Family(
        name="EfficientNetV2",
        parts={rf"{_STAGE}_dwconv2": 3, rf"{_STAGE}_se_(reduce|expand)": 1, r"\w*stem_conv": 3, r"\w*top_conv": 1},
        cautions=_UNEVEN,
    ),
    Family(
        name="ConvNeXt",
        parts={r"\w+_depthwise_conv": 7, r"\w+_pointwise_conv_[12]": None, r"\w+_layer_scale": None},
        layer_epsilon=1e-6,
    ),
    Family(
        name="Xception",
        parts={r"block\d+_sepconv\d": 3, r"block1_conv[12]": 3, r"block14_sepconv2_bn": None},
        cautions=_UNEVEN,
    ),
    Family(
        name="InceptionResNetV2",
        parts={r"block35_\d+_conv": 1, r"block17_\d+_conv": 1, r"block8_\d+_conv": 1, r"conv_7b": 1},
        unscaled=True,
        numbered=True,
        cautions=frozenset({Caution.averaging}),
    ),
    Family(
        name="NASNet",
        parts={r"separable_conv_1_bn_\w+": None, r"adjust_conv_projection_\w+": 1, r"normal_conv_1_\w+": 1},
        cautions=_UNEVEN | {Caution.averaging},
    ),
    Family(
        name="InceptionV3",
        parts={r"conv2d(_\d+)?": None, r"batch_normalization(_\d+)?": None},
        windows={(1, 1): 40, (3, 3): 17, (5, 5): 3, (1, 7): 13, (7, 1): 13, (1, 3): 4, (3, 1): 4},
        unscaled=True,
        numbered=True,
        cautions=frozenset({Caution.averaging}),
    ),
)
