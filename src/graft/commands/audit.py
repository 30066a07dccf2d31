"""`graft audit DATA`: finds faults in labelled images before anything is trained."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from graft.commands.destination import file_to_write
from graft.config.faults import InputError
from graft.config.presets import composed
from graft.system.tables import csv_text

if TYPE_CHECKING:
    from graft.audit.copies import Copies
    from graft.pipeline.audit import Audit

SHOWN = 10
NEAR = ("one", "part", "other", "part", "correlation", "")
NEAR_FIELDS = ("path", "part", "other_path", "other_part", "correlation", "mirrored")
FIELDS = ("path", "part", "label", "proposal", "margin")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", nargs="+", metavar="DATA|KEY=VALUE",
        help="a folder of images by class, or a CSV file; and keys of the config, as training takes them",
    )  # fmt: skip
    parser.add_argument(
        "--csv", metavar="FILE",
        help="write every image with its label and the one proposed, the most doubtful first",
    )  # fmt: skip
    parser.add_argument(
        "--near", metavar="FILE", help="write every pair across parts that nearly shows the same, as CSV"
    )
    parser.add_argument(
        "--show", type=int, default=SHOWN, metavar="N", help=f"doubtful labels to print (default: {SHOWN})"
    )


def run(args: argparse.Namespace) -> int:
    keys = [word for word in args.data if "=" in word]
    places = [word for word in args.data if "=" not in word]
    if len(places) != 1:
        received = " ".join(places) or "none"
        raise InputError(
            f"DATA: expected one folder of images or CSV file, received {received}; try graft audit photos/"
        )
    out = file_to_write("--csv", args.csv, [".csv"]) if args.csv else None
    near = file_to_write("--near", args.near, [".csv"]) if args.near else None
    config = composed([f"data.root={places[0]}", "head=stages", "cache=features", "data.on_error=skip", *keys])
    from graft.pipeline.audit import audit
    from graft.pipeline.inputs import SharedInputs

    result = audit(config, SharedInputs())
    print("\n".join(lines(result, args.show)))
    from graft.system.files import write_text

    labels = [
        (sample.path, part, result.classes[doubt.label], result.classes[doubt.proposal], f"{doubt.margin:.6f}")
        for doubt in result.doubts
        for part, sample in [result.samples[doubt.image]]
    ]
    for path, rows in ((out, [FIELDS, *labels]), (near, [NEAR_FIELDS, *_near(result)])):
        if path is not None:
            write_text(path, csv_text(rows))
            print(f"written: {path}")
    return 0


def lines(audit: Audit, shown: int) -> list[str]:
    """The lines to print.

    Args:
        shown: the maximum number of doubtful labels.
    """
    from graft.page.terminal import aligned

    parts = list(next(iter(audit.counts.values())))
    counts = [("class", *parts), *((name, *map(str, by.values())) for name, by in audit.counts.items())]
    text = aligned(counts, right=range(1, len(parts) + 1))
    text += [f"corrected {line}" for line in audit.corrections.described()]
    text += [f"caution   {line}" for line in audit.cautions]
    text += [f"unreadable {row['path']}: {row['reason']}" for row in audit.unreadable]
    text += [
        "",
        _copies(audit.copies),
        f"near      pairs across parts that nearly show the same: {len(audit.near.pairs)}",
    ]
    if audit.near.are_alike:
        text.append("          (all images are much alike, so crops among them cannot be told from others)")
    text += aligned([NEAR, *_near(audit)[:shown]]) if audit.near.pairs and shown else []
    doubtful = [doubt for doubt in audit.doubts if doubt.margin > 0]
    number = f"{len(doubtful):,} of {len(audit.doubts):,}"
    text.append(f"labels    {number} are not what a head fitted to the other images answers; the most doubtful first")
    rows: list[tuple[str, ...]] = []
    for doubt in doubtful[:shown]:
        part, sample = audit.samples[doubt.image]
        names = audit.classes[doubt.label], audit.classes[doubt.proposal]
        rows.append((sample.path, part, *names, f"{doubt.margin:.2f}"))
    text += aligned([FIELDS, *rows]) if rows else []
    for one, other, count in audit.confusions[:3]:
        pair = f"{audit.classes[one]} and {audit.classes[other]}"
        text.append(f"alike     {pair}: {count} image{'' if count == 1 else 's'} answered as the other")
    return [*text, *_shortcuts(audit)]


def _shortcuts(audit: Audit) -> list[str]:
    """The properties of the files that predict the labels suspiciously well, or the best one if there are none."""
    suspects = [each for each in audit.shortcuts if each.is_suspect]
    lines = [
        f"shortcut  the {each.name} alone predicts the label with accuracy {each.accuracy:.3f} (the largest class:"
        f" {each.chance:.3f}), and distinguishes {audit.classes[each.place]} from the others with AUROC"
        f" {each.auroc:.3f}: were its images made in another way?"
        for each in suspects
    ]
    if not suspects and audit.shortcuts:
        best = audit.shortcuts[0]
        lines.append(
            f"shortcuts none: of {len(audit.shortcuts)} properties of the files, the {best.name} predicts the label"
            f" best, with accuracy {best.accuracy:.3f} (the largest class: {best.chance:.3f})"
        )
    return lines


def _near(audit: Audit) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for pair in audit.near.pairs:
        (part, one), (later, other) = audit.samples[pair.one], audit.samples[pair.other]
        how = "mirrored" if pair.mirrored else ""
        rows.append((one.path, part, other.path, later, f"{pair.correlation:.3f}", how))
    return rows


def _copies(copies: Copies) -> str:
    numbers = {
        "in two parts": copies.duplicates,
        "within a part": copies.within,
        "under two labels": copies.contradictions,
    }
    return "copies    pairs " + ", ".join(f"{where} {number}" for where, number in numbers.items())
