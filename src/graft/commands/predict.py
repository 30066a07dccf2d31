"""`graft predict MODEL PATHS…`: predicts the classes, labels or numbers of images, as a table, CSV or JSON lines."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from graft.commands.own_code import add_import_code
from graft.config.options import positive
from graft.system.tables import row_cells
from graft.system.terminal import printable

if TYPE_CHECKING:
    from graft.results.model import OpenedModel
    from graft.tasks.answers import Answer, Form

NAME = "predict"
HELP = "predict the classes, labels or numbers of images by a run or an exported model"
FORMATS = ("table", "csv", "jsonl")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run's folder, or an exported model's")
    parser.add_argument(
        "paths", nargs="+", help="image files, folders, globs, a CSV with a column of paths, or - for standard input"
    )
    parser.add_argument("--format", choices=FORMATS, default="table", help="table (default), csv or jsonl")
    parser.add_argument("--output", help="write to this file instead of standard output")
    parser.add_argument(
        "--top", type=positive, help="number of likeliest classes to print, for single-label models (1)"
    )
    parser.add_argument(
        "--threshold", type=_share, help="print labels above this probability, for multi-label models (0.5)"
    )
    parser.add_argument("--column", default="path", help="the CSV's column of paths (path)")
    parser.add_argument("--batch-size", type=positive, default=32, help="images computed at once (32)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1 …")
    parser.add_argument(
        "--tta",
        choices=("none", "flips", "crops", "flips+crops"),
        default="none",
        help="average the answers over the mirror image, another crop, or both; two or four times the work (none)",
    )
    parser.add_argument(
        "--label-column", help="the CSV's column of true classes, to print the accuracy and the gain of --tta"
    )
    add_import_code(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 if every image has an answer, 1 if some could not be read. Their rows have the reason."""
    from graft.commands.destination import file_to_write
    from graft.inference.classify import form_of, predict
    from graft.inference.load import open_model
    from graft.inference.sources import image_paths

    output = file_to_write("--output", args.output) if args.output is not None else None
    opened = open_model(args.model, import_code=args.import_code)
    choices = {"top": args.top, "threshold": args.threshold}
    form = form_of(opened, **choices)
    paths = list(image_paths(args.paths, column=args.column, stdin=sys.stdin))
    truth = _truth(args, opened)
    settings = {**choices, "batch_size": args.batch_size, "device": args.device}
    answers = predict(opened, paths, **settings, tta=args.tta)
    counted = _Counted(_with_progress(answers, len(paths)), truth, opened.classes)
    with _destination(output) as file:
        _WRITERS[args.format](counted, file, form)
    if truth:
        message = f"graft predict: accuracy {counted.accuracy:.4f} of {counted.judged:,} images"
        if args.tta != "none":
            alone = _Counted(predict(opened, paths, **settings), truth, opened.classes)
            list(alone)
            message += f" with --tta {args.tta}, {alone.accuracy:.4f} without"
        print(message, file=sys.stderr)
    if counted.unread:
        print(f"graft predict: {counted.unread} of {len(paths)} images have no answer", file=sys.stderr)
    return 1 if counted.unread else 0


class _Counted:
    """Yields answers unchanged, and counts the errors and the right ones.

    Args:
        truth: path to the index of the true class.
    """

    def __init__(self, answers: Iterable[Answer], truth: Mapping[str, int], classes: Sequence[str]) -> None:
        self.answers, self.truth, self.classes = answers, truth, classes
        self.unread = self.right = self.judged = 0

    def __iter__(self) -> Iterator[Answer]:
        for answer in self.answers:
            self.unread += answer.error is not None
            if answer.error is None and answer.file in self.truth:
                self.judged += 1
                self.right += answer.top[0][0] == self.classes[self.truth[answer.file]]
            yield answer

    @property
    def accuracy(self) -> float:
        return self.right / self.judged if self.judged else float("nan")


def _truth(args: argparse.Namespace, opened: OpenedModel) -> dict[str, int]:
    """The true class of each image, from the CSV files among the paths."""
    from graft.config.choices import TaskKind
    from graft.config.faults import InputError
    from graft.inference.sources import labels_in

    if args.label_column is None:
        return {}
    if opened.task.kind is not TaskKind.single_label:
        raise InputError(
            f"--label-column: expected a single-label model, received one of {opened.task.kind.value}; try"
            " leaving it out"
        )
    number = {name: place for place, name in enumerate(opened.classes)}
    names = labels_in(args.paths, column=args.column, label=args.label_column)
    unknown = sorted({name for name in names.values() if name not in number})
    if unknown:
        raise InputError(
            f"--label-column: expected the model's classes ({', '.join(opened.classes)}), received"
            f" {', '.join(unknown[:5])}; try the column that the model was trained on"
        )
    return {path: number[name] for path, name in names.items()}


def _with_progress(answers: Iterator[Answer], total: int) -> Iterator[Answer]:
    """Shows a progress bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield from answers
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(answers, description="predict", total=total, console=Console(stderr=True), transient=True)


@contextmanager
def _destination(path: Path | None) -> Generator[TextIO]:
    """Standard output, or a file that appears only when it is complete."""
    if path is None:
        yield sys.stdout
        return
    from graft.system.files import write_text

    text = io.StringIO()
    yield text
    write_text(path, text.getvalue())


def _write_table(answers: Iterable[Answer], file: TextIO, form: Form) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell(text: str, style: str = "") -> Text:
        return Text(printable(text), style=style)

    table = Table()
    table.add_column("file", overflow="fold")
    for name, is_number in form.columns().items():
        table.add_column(cell(name), overflow="fold", justify="right" if is_number else "left")
    for answer in answers:
        if answer.error is not None:
            table.add_row(cell(answer.file), cell(f"no answer: {answer.error}", style="red"))
        else:
            table.add_row(cell(answer.file), *(cell(text) for text in form.row(answer)))
    Console(file=file).print(table)


def _write_csv(answers: Iterable[Answer], file: TextIO, form: Form) -> None:
    writer = csv.writer(file, lineterminator="\n")
    header = form.header()
    writer.writerow(row_cells(["file", *header, "error"]))
    for answer in answers:
        cells = form.cells(answer) if answer.error is None else [""] * len(header)
        writer.writerow(row_cells([answer.file, *cells, answer.error or ""]))
        file.flush()


def _write_jsonl(answers: Iterable[Answer], file: TextIO, form: Form) -> None:
    for answer in answers:
        content = {"error": answer.error} if answer.error is not None else form.to_dict(answer)
        line = json.dumps({"file": answer.file, **content}, ensure_ascii=False)
        file.write((line if line.isprintable() else json.dumps(json.loads(line))) + "\n")
        file.flush()


_WRITERS = {"table": _write_table, "csv": _write_csv, "jsonl": _write_jsonl}


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a probability from 0 to below 1, received {text}")
    return value
