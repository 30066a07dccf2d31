"""`graft predict MODEL PATHS…`: the classes of images, as a table, CSV or JSON lines."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from graft.results.classify import Answer

NAME = "predict"
HELP = "classify images with a run or an exported model"
FORMATS = ("table", "csv", "jsonl")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run's folder, or an exported model's")
    parser.add_argument(
        "paths", nargs="+", help="image files, folders, globs, a CSV with a column of paths, or - for standard input"
    )
    parser.add_argument("--format", choices=FORMATS, default="table", help="table (default), csv or jsonl")
    parser.add_argument("--output", help="write to this file instead of standard output")
    parser.add_argument("--top", type=_positive, default=1, help="how many of the likeliest classes to name (1)")
    parser.add_argument("--column", default="path", help="the CSV's column of paths (path)")
    parser.add_argument("--batch-size", type=_positive, default=32, help="images computed at once (32)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1 …")


def run(args: argparse.Namespace) -> int:
    """0 if every image was classified, 1 if one could not be read (its row says why)."""
    from graft.results.classify import predict
    from graft.results.load import open_model
    from graft.results.sources import image_paths

    opened = open_model(args.model)
    paths = list(image_paths(args.paths, column=args.column, stdin=sys.stdin))
    top = min(args.top, len(opened.classes))
    answers = predict(opened, paths, top=top, batch_size=args.batch_size, device=args.device)
    counted = _Counted(_with_progress(answers, len(paths)))
    with _destination(args.output) as file:
        _WRITERS[args.format](counted, file, opened.classes, top)
    if counted.unread:
        print(f"graft predict: {counted.unread} of {len(paths)} images could not be read", file=sys.stderr)
    return 1 if counted.unread else 0


class _Counted:
    """Passes answers on and counts those that are errors."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self.answers = answers
        self.unread = 0

    def __iter__(self) -> Iterator[Answer]:
        for answer in self.answers:
            self.unread += answer.error is not None
            yield answer


def _with_progress(answers: Iterator[Answer], total: int) -> Iterator[Answer]:
    """A bar on standard error, where a person watches."""
    if not sys.stderr.isatty():
        yield from answers
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(answers, description="predict", total=total, console=Console(stderr=True), transient=True)


@contextmanager
def _destination(path: str | None) -> Generator[TextIO]:
    """Standard output as rows come, or a file that appears whole."""
    if path is None:
        yield sys.stdout
        return
    from graft.files import write_text

    text = io.StringIO()
    yield text
    write_text(path, text.getvalue())


def _write_table(answers: Iterable[Answer], file: TextIO, classes: Sequence[str], top: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    if top > 1:
        table.add_column("then")
    for answer in answers:
        if answer.error is not None:
            table.add_row(Text(answer.file), Text(f"unreadable: {answer.error}", style="red"))
            continue
        (label, probability), *others = answer.top
        then = "\n".join(f"{name} {share:.4f}" for name, share in others)
        table.add_row(Text(answer.file), Text(label), f"{probability:.4f}", *([Text(then)] if top > 1 else []))
    Console(file=file).print(table)


def _write_csv(answers: Iterable[Answer], file: TextIO, classes: Sequence[str], top: int) -> None:
    writer = csv.writer(file, lineterminator="\n")
    further = [column for place in range(2, top + 1) for column in (f"class_{place}", f"probability_{place}")]
    writer.writerow(["file", "class", "probability", *further, "error"])
    for answer in answers:
        said = [cell for label, share in answer.top for cell in (label, f"{share:.6f}")]
        blank = [""] * (2 * top - len(said))
        writer.writerow([answer.file, *said, *blank, answer.error or ""])
        file.flush()


def _write_jsonl(answers: Iterable[Answer], file: TextIO, classes: Sequence[str], top: int) -> None:
    for answer in answers:
        file.write(json.dumps(answer.to_dict(classes), ensure_ascii=False) + "\n")
        file.flush()


_WRITERS = {"table": _write_table, "csv": _write_csv, "jsonl": _write_jsonl}


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, received {value}")
    return value
