"""`graft audit DATA`: what is wrong with labelled images, before anything is trained."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft.commands.destination import file_to_write
from graft.config.faults import InputError
from graft.config.presets import composed

if TYPE_CHECKING:
    from graft.audit.copies import Copies
    from graft.pipeline.audit import Audit

SHOWN = 10
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
    config = composed([f"data.root={places[0]}", "head=stages", "cache=features", "data.on_error=skip", *keys])
    from graft.pipeline.audit import audit
    from graft.pipeline.inputs import SharedInputs

    result = audit(config, SharedInputs())
    print("\n".join(lines(result, args.show)))
    if out is not None:
        from graft.system.files import write_text

        write_text(out, as_csv(result))
        print(f"written: {out}")
    return 0


def lines(audit: Audit, shown: int) -> list[str]:
    """What is printed."""
    from graft.page.terminal import aligned

    parts = list(next(iter(audit.counts.values())))
    counts = [("class", *parts), *((name, *map(str, by.values())) for name, by in audit.counts.items())]
    text = aligned(counts, right=range(1, len(parts) + 1))
    text += [f"caution   {line}" for line in audit.cautions]
    text += [f"unreadable {row['path']}: {row['reason']}" for row in audit.unreadable]
    text += ["", _copies(audit.copies)]
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
    return text


def _copies(copies: Copies) -> str:
    numbers = {
        "in two parts": copies.duplicates,
        "within a part": copies.within,
        "under two labels": copies.contradictions,
    }
    return "copies    pairs " + ", ".join(f"{where} {number}" for where, number in numbers.items())


def as_csv(audit: Audit) -> str:
    """Every image, the most doubtful first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for doubt in audit.doubts:
        part, sample = audit.samples[doubt.image]
        row: Sequence[object] = (
            sample.path, part, audit.classes[doubt.label], audit.classes[doubt.proposal], f"{doubt.margin:.6f}"
        )  # fmt: skip
        writer.writerow(row)
    return text.getvalue()
