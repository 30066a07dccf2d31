"""Ways to decode a JPEG and resize it, which all end with graft's own resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.case import Against, Comparison, Way, beside, timed
from graft.config.faults import InputError

if TYPE_CHECKING:
    import torch

    Read = Callable[[str], torch.Tensor]

PACKAGE = "simplejpeg"


def check_installed() -> None:
    """
    Raises:
        InputError: the package of one of the decoders is missing.
    """
    if find_spec(PACKAGE) is None:
        raise InputError(
            f"--decoders: expected the package {PACKAGE}, received none; try pip install 'graft-transfer[bench]', or"
            " without --decoders"
        )


def decoders(paths: Sequence[str], *, what: str, edge: int) -> Comparison:
    """graft's way beside the others.

    Args:
        edge: length the shorter edge is resized to; a smaller scale keeps twice that.
    """
    import torch
    from torchvision.transforms import InterpolationMode

    from graft.data.images import decode
    from graft.data.transforms import MARGIN, resize

    package: Any = import_module(PACKAGE)
    least = MARGIN * edge

    def turbo(path: str, **scale: int) -> torch.Tensor:
        """At the quality of the others, which is not this package's default."""
        pixels = package.decode_jpeg(Path(path).read_bytes(), "RGB", fastdct=False, fastupsample=False, **scale)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def resized(read: Read) -> list[torch.Tensor]:
        return [resize(read(path), edge, InterpolationMode.BILINEAR) for path in paths]

    def way(name: str, read: Read) -> Way:
        apart = [(one.float() - whole.float()).abs() for one, whole in zip(resized(read), expected, strict=True)]
        levels = {
            "grey levels apart": float(torch.stack([each.mean() for each in apart]).mean()),
            "at most": float(torch.stack([each.max() for each in apart]).max()),
        }
        return Way(name=name, measure=beside(timed(lambda: resized(read)), levels))

    ways: dict[str, Read] = {
        "Pillow, whole": lambda path: decode(path, 3),
        "simplejpeg, whole": turbo,
        "simplejpeg, reduced": lambda path: turbo(path, min_height=least, min_width=least, min_factor=1),
    }
    expected = resized(ways["Pillow, whole"])
    return Comparison(
        what=f"{what}, decoded and resized to {edge} pixels",
        ours=way("graft: Pillow, reduced", lambda path: decode(path, 3, least)),
        others=[Against(way=way(name, read)) for name, read in ways.items()],
        warm_up=1,
    )
