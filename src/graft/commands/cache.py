"""`graft cache list|prune`: lists or prunes the shared cache folder, even while jobs are using it."""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.config.faults import InputError, RunFailed
from graft.config.schema import CacheConfig
from graft.system.terminal import printable

if TYPE_CHECKING:
    from graft.features.cache_folder import CacheFolder, Listed

NAME = "cache"
HELP = "list or prune the computed features and decoded images that runs share"
HOURS = {"h": 1.0, "d": 24.0, "w": 24.0 * 7}
_UNITS = ("B", "kB", "MB", "GB", "TB")


def configure(parser: argparse.ArgumentParser) -> None:
    default = CacheConfig().dir
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|prune")
    listing = actions.add_parser("list", help="size, last use and content of each entry, the latest used first")
    listing.add_argument("--json", action="store_true", help="a JSON object a line, with all that an entry records")
    pruning = actions.add_parser(
        "prune",
        help="remove damaged and half-written entries, and those that the options select; entries that a job is "
        "writing stay, and a job that reads an entry can use it to its end",
    )
    pruning.add_argument(
        "--older-than", type=_days, metavar="AGE", help="remove what was last used this long ago: 12h, 30d, 2w"
    )
    pruning.add_argument(
        "--max-gb", type=_gigabytes, metavar="GB", help="remove the longest unused until the rest takes at most this"
    )
    pruning.add_argument("--all", action="store_true", help="remove every entry")
    for each in (listing, pruning):
        each.add_argument("--dir", default=default, help=f"the cache folder, as cache.dir names it ({default})")


def run(args: argparse.Namespace) -> int:
    from graft.features.cache_folder import CacheFolder

    path = Path(args.dir)
    if not path.is_dir():
        received = "a file" if path.exists() else "nothing there"
        raise InputError(f"--dir: expected a cache folder, received {path} ({received}); try the run's cache.dir")
    folder = CacheFolder(path, max_gb=math.inf, say=print)
    if args.action == "list":
        return show(folder.entries(), path, as_json=args.json)
    return prune(folder, older_than=args.older_than, max_gb=0.0 if args.all else args.max_gb)


def show(entries: Sequence[Listed], path: Path, *, as_json: bool) -> int:
    if as_json:
        for listed in entries:
            print(json.dumps(to_dict(listed), ensure_ascii=False))
        return 0
    for listed in entries:
        print(line(listed))
    print(f"{path}: {count(entries)}, {size(sum(listed.bytes for listed in entries))}")
    return 0


def prune(folder: CacheFolder, *, older_than: float | None, max_gb: float | None) -> int:
    try:
        removed = folder.prune(max_gb=max_gb, older_than_days=older_than)
    except OSError as error:
        raise RunFailed(
            f"{folder.path}: expected entries that can be removed, received {error.strerror} ({error.filename}); "
            "try as the user who owns the folder"
        ) from error
    for listed in removed:
        print(f"removed  {line(listed)}")
    left = folder.entries()
    print(
        f"{folder.path}: removed {count(removed)}, {size(sum(listed.bytes for listed in removed))}; "
        f"{count(left)} left, {size(sum(listed.bytes for listed in left))}"
    )
    return 0


def line(listed: Listed) -> str:
    header = listed.header
    what, form = "unusable", listed.fault
    if header is not None:
        what = str(header.record.get("what", header.record.get("kind", "unnamed")))
        form = f"{header.dtype} {'×'.join(map(str, header.shape))}"
    if listed.writer:
        what, form = "being written", f"by {listed.writer}"
    return printable(
        f"{size(listed.bytes):>8}  {ago(time.time() - listed.used):>11}  {what} ({form})  {listed.path.stem[:12]}"
    ).replace("\n", " ")


def to_dict(listed: Listed) -> dict[str, Any]:
    header = listed.header
    return {
        "path": str(listed.path),
        "bytes": listed.bytes,
        "used": listed.used,
        "fault": listed.fault or None,
        "writer": listed.writer or None,
        "shape": list(header.shape) if header else None,
        "dtype": header.dtype if header else None,
        "created": header.created if header else None,
        "record": dict(header.record) if header else None,
    }


def count(entries: Sequence[Listed]) -> str:
    return f"{len(entries)} entr{'y' if len(entries) == 1 else 'ies'}"


def size(count: float) -> str:
    """A number of bytes in decimal units (1 kB = 1000 bytes), like cache.max_gb."""
    place = min(int(math.log(count, 1000)), len(_UNITS) - 1) if count >= 1 else 0
    return f"{count / 1000**place:.3g} {_UNITS[place]}"


def ago(seconds: float) -> str:
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def _days(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"expected hours, days or weeks (12h, 30d, 2w), received {text!r}")
    return float(match[1]) * HOURS[match[2]] / 24


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected gigabytes from 0 upward, received {text!r}")
    return value
