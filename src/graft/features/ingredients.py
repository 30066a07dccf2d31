"""Everything that a stored feature depends on, and its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from torch import nn

from graft.config.choices import Resize
from graft.config.schema_images import AugmentConfig, CacheConfig
from graft.models.fingerprint import fingerprint, structure_hash

if TYPE_CHECKING:
    from graft.models.network import Network
    from graft.models.preprocess import Preprocess

FORMAT = 2
"""Format version, part of every key. It is increased when the same ingredients no longer give the same rows."""
PLAIN = "plain"
"""Value of `engine` for rows that the original prefix computes."""
_LIBRARIES = ("torch", "torchvision", "timm", "pillow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """Everything that a row depends on, except the images."""

    weights: str
    """`fingerprint` of the prefix."""
    structure: str
    """`structure_hash` of the prefix."""
    network: Mapping[str, Any]
    """How the network was built (library, name, arguments)."""
    cut: str
    """The last stage of the prefix."""
    preprocess: Mapping[str, Any]
    """Size, crop, interpolation, mean, std, channels."""
    dtype: str
    """Type of the stored features: float32, float16 or bfloat16."""
    engine: str
    """How the rows are computed: PLAIN, or by an engine and in which precision."""
    views: int = 0
    """Number of augmented views of each training image; 0: none."""
    augment: Mapping[str, Any] | None = None
    """The augmentation's record, if there are views."""
    seed: int | None = None
    """The seed of the views, if there are any."""

    @classmethod
    def of(
        cls,
        prefix: nn.Module,
        network: Network,
        *,
        cut: str,
        cache: CacheConfig,
        augment: AugmentConfig,
        seed: int,
        engine: str,
    ) -> Ingredients:
        """The ingredients for a run: the relevant parts of the network (not the number of classes or the head) and of
        the config.

        Args:
            prefix: the prefix with the network's original tensors, before it was turned into an engine.
        """
        return cls(
            weights=fingerprint(prefix),
            structure=structure_hash(prefix),
            network={
                name: network.build[name] for name in ("library", "name", "kwargs", "altered") if name in network.build
            },
            cut=cut,
            preprocess=_plain(network.preprocess),
            dtype=cache.dtype,
            engine=engine,
            views=cache.views,
            augment=asdict(augment),
            seed=seed,
        )

    def key(self, images: str) -> str:
        """The key of the features of these images.

        Args:
            images: a hash of the files and their order.
        """
        return hashlib.sha256(_canonical({**self.record(), "images": images})).hexdigest()

    def record(self) -> dict[str, Any]:
        """The ingredients, the format version and the libraries' versions; hashed into the key and written into the
        entry."""
        versions = {library: version(library) for library in _LIBRARIES}
        randomness = {"augment": self.augment, "seed": self.seed} if self.views else {"augment": None, "seed": None}
        values = {**asdict(self), **randomness, "versions": versions, "format": FORMAT}
        return json.loads(_canonical(values))


def _plain(preprocess: Preprocess) -> dict[str, Any]:
    """Its values. A crop is not named, so that entries of a time when there was nothing else keep their keys."""
    values = asdict(preprocess)
    return {name: value for name, value in values.items() if (name, value) != ("resize", Resize.crop.value)}


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), default=str).encode()
