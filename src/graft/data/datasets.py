"""Turns a data config into the table of samples: lists the files, checks them, and divides them into parts.

Every file is checked before training. Unreadable files are thus reported early, or left out of every epoch and process
alike. data.on_error=stop reads headers, checksums and end marks (about 0.2 ms per image and core). data.on_error=skip
decodes every image, which takes about as long as the decoding of an epoch. The bytes of each version of a file are
hashed once (0.07 ms for 34 kB, 0.43 ms for 378 kB), because images are identified by content. Files that may show the
same picture are also decoded (pictures.py).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from graft.config.choices import DataKind, OnError, Targets
from graft.config.faults import ConfigError, Fault
from graft.config.schema_images import DataConfig
from graft.data.contents import FOLDER as CONTENTS
from graft.data.contents import Contents, Version
from graft.data.correction_files import correct
from graft.data.csv_table import check_labels, list_csv
from graft.data.folder import list_folder
from graft.data.groups import assign_groups
from graft.data.own_table import list_own
from graft.data.pictures import FOLDER as PICTURES
from graft.data.pictures import Picture, Pictures, ReadableFile
from graft.data.pixels import Unreadable, check_image
from graft.data.solar_cells import list_solar_cells
from graft.data.split import carve, connected, divide
from graft.data.table import PARTS, ListedImage, Listing, Sample, Table, digest
from graft.tasks.labels import LABELS

SOURCES: dict[DataKind, Callable[[DataConfig], Listing]] = {
    DataKind.solar_cells: list_solar_cells,
    DataKind.folder: list_folder,
    DataKind.csv: list_csv,
    DataKind.custom: list_own,
}
SHOWN = 10
LOOKS = "looks"
"""The subfolder of the cache folder for small versions of the images."""
NO_VERSION = Version(0, 0, 0, 0, 0)
_CHUNK = 64  # files per unit of work of a thread


def load_table(data: DataConfig, contents: Contents | None = None, pictures: Pictures | None = None) -> Table:
    """Lists the samples of each part.

    A source without a validation part gets one from train, and `test_fraction` takes a test part likewise. Both depend
    on data.split_seed and the images' names, but never on the run's seed. Images that show the same picture, or belong
    to the same group, stay in the same part.

    Args:
        contents: recorded hashes of files; None: every file is read.
        pictures: recorded hashes of pictures; None: every file that may show the same as another is decoded.

    Raises:
        InputError: lists all faults together: a missing or empty root, a single class, a class without images, parts
            with different classes, an image in two parts, unreadable images.
    """
    listing = SOURCES[data.kind](data)
    corrections, wrong = correct(listing, data)
    faults = [*listing.faults, *wrong, *_check_config(data, listing), *assign_groups(listing, data.group)]
    contents, pictures = contents or Contents(), pictures or Pictures(data.channels)
    looked = _look(listing.entries, data, contents)
    if not faults:
        looked = _compare(looked, pictures)
    unreadable = [*listing.stray, *((entry.path, look.fault) for entry, look in looked if look.fault)]
    if unreadable and data.on_error is OnError.stop:
        faults.append(_unreadable(unreadable, listing.key))
    sound = [(entry, look) for entry, look in looked if not look.fault]
    faults.extend(_twice(sound, data, listing))
    if not faults:
        faults.extend(_assign_parts(sound, data, listing))
    if faults:
        raise ConfigError(faults)
    contents.keep()
    pictures.keep()
    parts = {part: tuple(_sample(e, look, data) for e, look in sound if e.part == part) for part in PARTS}
    return Table(
        classes=listing.classes,
        **parts,
        skipped=tuple({"path": path, "reason": reason} for path, reason in unreadable),
        corrections=corrections,
        task=data.task,
    )


def record_of_contents(cache: Path, data: DataConfig) -> Path:
    """Path, in a cache folder, of the record of the hashes of a source's files."""
    return cache / CONTENTS / digest(_source(data))


def record_of_pictures(cache: Path, data: DataConfig) -> Path:
    """Path, in a cache folder, of the record of a source's pictures, for the installed decoder."""
    return cache / PICTURES / digest((*_source(data), data.channels, version("pillow")))


def record_of_looks(cache: Path, data: DataConfig) -> Path:
    """Path, in a cache folder, of the record of small versions of a source's images."""
    return cache / LOOKS / digest((*_source(data), data.channels, version("pillow")))


def _source(data: DataConfig) -> tuple[str, str]:
    kind = data.kind.value if data.target is None else f"{data.kind.value} {data.target} {data.kwargs}"
    return kind, "" if data.root is None else os.path.abspath(os.path.expanduser(data.root))


@dataclass(frozen=True, slots=True)
class _Look:
    """The result of checking a file."""

    fault: str = ""
    content: str = ""
    version: Version = NO_VERSION
    decoded: Picture | None = None
    """What the file shows, if it was decoded."""
    picture: str = ""
    """As a sample's."""


def _look(entries: Sequence[ListedImage], data: DataConfig, contents: Contents) -> list[tuple[ListedImage, _Look]]:
    thorough = data.on_error is OnError.skip

    def look(entry: ListedImage) -> _Look:
        try:
            pixels_HWC = check_image(entry.path, data.channels, thorough=thorough)
            content, status = contents.of(entry.path)
        except Unreadable as unreadable:
            return _Look(unreadable.reason)
        except OSError as error:
            return _Look(error.strerror or "cannot be read")
        return _Look("", content, Version.of(status), None if pixels_HWC is None else Picture.of(pixels_HWC))

    chunks = [entries[start : start + _CHUNK] for start in range(0, len(entries), _CHUNK)]
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        results = pool.map(lambda chunk: [look(entry) for entry in chunk], chunks)
        return list(zip(entries, (one for chunk in results for one in chunk), strict=True))


def _compare(looked: Sequence[tuple[ListedImage, _Look]], pictures: Pictures) -> list[tuple[ListedImage, _Look]]:
    """Adds the identity of each picture. Files that turn out to be unreadable when decoded are marked so."""
    files = [
        ReadableFile(entry.path, look.content, look.version, look.decoded) for entry, look in looked if not look.fault
    ]
    by_content = pictures.tell_apart(files)

    def compared(look: _Look) -> _Look:
        picture = by_content.get(look.content, "")
        if isinstance(picture, Unreadable):
            return replace(look, fault=picture.reason)
        return replace(look, picture=picture)

    return [(entry, compared(look)) for entry, look in looked]


def _check_config(data: DataConfig, listing: Listing) -> list[Fault]:
    faults = list(check_labels(data, listing)) if listing.columns else []
    for key in ("val_fraction", "test_fraction"):
        value = getattr(data, key)
        if not 0 <= value < 1:
            faults.append(Fault(key=f"data.{key}", expected="a share from 0 to below 1", received=f"{value:g}"))
    if data.test_fraction and (listing.test or any(entry.part == "test" for entry in listing.entries)):
        faults.append(
            Fault(
                key="data.test_fraction",
                expected="0, as the data has a test part already",
                received=f"{data.test_fraction:g}",
                remedy="data.test_fraction=0",
            )
        )
    if data.targets is Targets.soft and listing.entries and listing.entries[0].target is None:
        faults.append(
            Fault(
                key="data.targets",
                expected=f"hard, as data={data.kind.value} has no annotated probabilities",
                received="soft",
                remedy="data.targets=hard",
            )
        )
    if listing.entries and len(listing.classes) < LABELS[data.task].fewest:
        faults.append(
            Fault(key=listing.key, expected="at least two classes", received=f"one: {', '.join(listing.classes)}")
        )
    return faults


def _assign_parts(sound: Sequence[tuple[ListedImage, _Look]], data: DataConfig, listing: Listing) -> list[Fault]:
    """Takes missing parts from train, and returns the faults of the resulting parts."""
    labels = LABELS[data.task]
    entries = [entry for entry, _ in sound]
    carved = {
        "test": listing.test or (data.test_fraction, data.split_seed),
        "val": (data.val_fraction, data.split_seed),
    }
    present = {entry.part for entry in listing.entries}
    if lost := [part for part in PARTS if part in present and all(entry.part != part for entry in entries)]:
        return [Fault(key=listing.key, expected=f"images of {part} that can be read", received="none") for part in lost]
    for part, (fraction, seed) in carved.items():
        if part not in present and fraction and not (part == "val" and data.folds):
            pool = [(entry, look) for entry, look in sound if entry.part == "train"]
            strata = [labels.stratum(entry.label) if entry.stratum is None else entry.stratum for entry, _ in pool]
            same = connected([entry.group for entry, _ in pool], [look.picture for _, look in pool])
            for position in carve([entry.name for entry, _ in pool], strata, fraction, seed, same):
                pool[position][0].part = part
    if data.folds:
        _assign_folds(sound, data, data.folds)
    parts = {part: [entry.label for entry in entries if entry.part == part] for part in PARTS}
    faults = labels.check(parts, listing.classes, listing.key)
    if not any(entry.part == "val" for entry in entries):
        faults.append(
            Fault(
                key="data.val_fraction",
                expected="a share that gives at least one image, as the best epoch is chosen on validation",
                received=f"{data.val_fraction:g} of {_numbers([entry for entry in entries if entry.part == 'train'])}",
                remedy="data.val_fraction=0.2 or more images" + (" or smaller groups" if data.group else ""),
            )
        )
    return faults


def _assign_folds(sound: Sequence[tuple[ListedImage, _Look]], data: DataConfig, count: int) -> None:
    """Divides all images outside the test part into folds, by content, so alike on every machine. One fold is val."""
    labels, pool = LABELS[data.task], [(entry, look) for entry, look in sound if entry.part != "test"]
    strata = [labels.stratum(entry.label) if entry.stratum is None else entry.stratum for entry, _ in pool]
    same = connected([entry.group for entry, _ in pool], [look.picture for _, look in pool])
    numbers = divide([look.content for _, look in pool], strata, count, data.split_seed, same)
    for (entry, _), number in zip(pool, numbers, strict=True):
        entry.fold, entry.part = number, "val" if number == (data.fold or 0) else "train"


def _numbers(entries: Sequence[ListedImage]) -> str:
    groups = {entry.group for entry in entries if entry.group}
    return f"{len(entries)} images" + (f" in {len(groups)} group{'s' * (len(groups) != 1)}" if groups else "")


def _twice(sound: Sequence[tuple[ListedImage, _Look]], data: DataConfig, listing: Listing) -> list[Fault]:
    """The fault of a file that is listed twice, perhaps through a link, with another label or in another part."""
    places: dict[tuple[int, int], list[ListedImage]] = defaultdict(list)
    for entry, look in sound:
        places[look.version.device, look.version.inode].append(entry)
    repeated = [entries for entries in places.values() if len(entries) > 1]
    if not repeated:
        return []
    words = LABELS[data.task].words
    shown = "; ".join(
        " = ".join(f"{entry.path} ({entry.part}, {words(entry.label, listing.classes)})" for entry in entries)
        for entries in repeated[:SHOWN]
    )
    more = f"; and {len(repeated) - SHOWN} more" if len(repeated) > SHOWN else ""
    return [Fault(key=listing.key, expected="each image once, in one part", received=shown + more)]


def _unreadable(unreadable: Sequence[tuple[str, str]], key: str) -> Fault:
    shown = ", ".join(f"{path} ({reason})" for path, reason in unreadable[:SHOWN])
    more = f" and {len(unreadable) - SHOWN} more" if len(unreadable) > SHOWN else ""
    return Fault(
        key=key,
        expected="images that can be read",
        received=f"{len(unreadable)} that cannot: {shown}{more}",
        remedy="data.on_error=skip, which leaves them out, counts and lists them",
    )


def _sample(entry: ListedImage, look: _Look, data: DataConfig) -> Sample:
    target = entry.target if data.targets is Targets.soft else None
    return Sample(entry.path, entry.label, target, look.content, look.picture, entry.group, entry.fold)
