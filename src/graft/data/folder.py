"""Lists class folders: root/train/<class>/…, root/val/<class>/… and optionally root/test/…, or root/<class>/…"""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from graft.config.faults import Fault, nearest
from graft.config.schema_images import DataConfig
from graft.data.table import ListedImage, Listing

KEY = "data.root"
LAYOUT = "root/train/<class>/… and root/val/<class>/…, or root/<class>/…"


def list_folder(data: DataConfig) -> Listing:
    """Lists every file below each class folder, at any depth. Names that begin with a dot are ignored.

    The classes are the names of the class folders, in alphabetical order.
    """
    listing = Listing(key=KEY)
    root = _root(data, listing)
    if root is None:
        return listing
    listing.folder = str(root)
    parts = {"train": data.train, "val": data.val, "test": data.test}
    present = {part: root / name for part, name in parts.items() if _folders(root / name)}
    if present:
        listing.faults.extend(_hollow(root / name) for name in parts.values() if _is_hollow(root / name))
    if listing.faults:
        return listing
    if "train" in present:
        others = [folder.name for folder in _folders(root) if folder.name not in parts.values()]
        listing.faults.extend(_unknown_part(name, parts, present) for name in others)
    elif present:
        listing.faults.append(
            Fault(
                key=KEY,
                expected=f"a folder {data.train} beside {', '.join(folder.name for folder in present.values())}",
                received=f"{root} with {_names(_folders(root))}",
                remedy="data.train=… with the training folder's name",
            )
        )
        return listing
    else:
        present = {"train": root}
    listing.classes = tuple(sorted({folder.name for place in present.values() for folder in _folders(place)}))
    _compare_classes(present, listing)
    for part, place in present.items():
        _list_part(part, place, root, listing)
    return listing


def _is_hollow(place: Path) -> bool:
    return place.is_dir() and not _folders(place)


def _hollow(place: Path) -> Fault:
    """The fault of a part's folder without classes. Taking the part from train instead would not be what was meant."""
    files = len(_visible(place))
    return Fault(
        key=KEY,
        expected=f"class folders in {place}",
        received=f"{files} files and no folder" if files else "an empty folder",
        remedy="filling it, or removing it where there is no such part (val is drawn from train then)",
    )


def missing_path(key: str, path: Path, expected: str) -> Fault:
    """The fault of a path that does not exist, with its nearest existing parent and similar names in there."""
    parent = next(place for place in path.parents if place.exists())
    there = [entry.name for entry in _visible(parent)] if parent.is_dir() else []
    similar = nearest(path.relative_to(parent).parts[0], there)
    return Fault(
        key=key,
        expected=expected,
        received=f"{path}, which does not exist (its nearest existing parent is {parent})",
        remedy=" or ".join(f"{key}={parent / name}" for name in similar),
    )


def _root(data: DataConfig, listing: Listing) -> Path | None:
    if data.root is None:
        listing.faults.append(
            Fault(key=KEY, expected="a folder of images", received="nothing", remedy="data.root=FOLDER")
        )
        return None
    root = Path(os.path.abspath(os.path.expanduser(data.root)))
    if not root.exists():
        listing.faults.append(missing_path(KEY, root, "a folder of images"))
        return None
    if not root.is_dir():
        remedy = f"data=csv data.root={root}" if root.suffix == ".csv" else f"{KEY}={root.parent}"
        listing.faults.append(Fault(key=KEY, expected="a folder of images", received=f"the file {root}", remedy=remedy))
        return None
    if not _folders(root):
        received = f"{root}, which is empty" if not _visible(root) else f"{root} with no folder in it"
        listing.faults.append(Fault(key=KEY, expected=f"class folders ({LAYOUT})", received=received))
        return None
    return root


def _list_part(part: str, place: Path, root: Path, listing: Listing) -> None:
    for folder in _folders(place):
        label = listing.classes.index(folder.name)
        files = _files_below(str(folder))
        if not files:
            listing.faults.append(
                Fault(
                    key=KEY,
                    expected="images in every class folder",
                    received=f"{folder} with none",
                    remedy="removing the folder if there is no such class",
                )
            )
        listing.entries.extend(ListedImage(path, os.path.relpath(path, root), label, part) for path in files)
    suffixes = Image.registered_extensions()
    for place_of_strays in {place, root}:
        for file in _visible(place_of_strays):
            if file.is_file() and (file.suffix.lower() in suffixes or file.suffix.lower() == ".npy"):
                stray = (str(file), "lies in no class folder")
                if stray not in listing.stray:
                    listing.stray.append(stray)


def _compare_classes(present: dict[str, Path], listing: Listing) -> None:
    """Adds a fault for each part whose classes differ from those of train."""
    trained = {folder.name for folder in _folders(present["train"])}
    for place in present.values():
        names = {folder.name for folder in _folders(place)}
        if names != trained:
            only_train, only_here = sorted(trained - names), sorted(names - trained)
            pairs = [f"{name} for {near[0]}" for name in only_here if (near := nearest(name, only_train, 1))]
            listing.faults.append(
                Fault(
                    key=KEY,
                    expected=f"the same class folders in {present['train']} and {place}",
                    received=f"{_list(only_train)} only in {present['train'].name}, "
                    f"{_list(only_here)} only in {place.name}",
                    remedy=f"renaming {', '.join(pairs)} (perhaps the same class)" if pairs else "",
                )
            )


def _unknown_part(name: str, parts: dict[str, str], present: dict[str, Path]) -> Fault:
    absent = [part for part in parts if part not in present]
    return Fault(
        key=KEY,
        expected=f"no folders but {', '.join(parts.values())} beside {parts['train']}",
        received=name,
        remedy=f"data.{absent[0]}={name}, or moving it away" if absent else "moving it away",
    )


def _files_below(folder: str) -> list[str]:
    """Every visible file, sorted. Links to folders are followed, but no folder is entered twice."""
    files_below: list[str] = []
    entered: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        files_below.extend(os.path.join(place, name) for name in files if not name.startswith("."))
    return sorted(files_below)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _folders(place: Path) -> list[Path]:
    return [path for path in _visible(place) if path.is_dir()] if place.is_dir() else []


def _names(paths: list[Path]) -> str:
    return _list([path.name for path in paths])


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:10]) or "none"
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown
