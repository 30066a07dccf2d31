"""`graft embed MODEL PATHS… --out FILE`: the features of images, for search and clustering."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.commands.destination import file_to_write
from graft.commands.own_code import add_import_code
from graft.config.faults import InputError
from graft.config.options import positive

if TYPE_CHECKING:
    import numpy as np

PARQUET = "pyarrow"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run's folder, or an exported model's")
    parser.add_argument(
        "paths", nargs="+", help="image files, folders, globs, a CSV with a column of paths, or - for standard input"
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE",
        help="FILE.npz with the arrays path and embedding, or FILE.parquet with these columns",
    )  # fmt: skip
    parser.add_argument("--column", default="path", help="the CSV's column of paths (path)")
    parser.add_argument("--batch-size", type=positive, default=32, help="images computed at once (32)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1 …")
    add_import_code(parser)


def run(args: argparse.Namespace) -> int:
    out = file_to_write("--out", args.out, tuple(WRITERS))
    if out.suffix.lower() == ".parquet" and importlib.util.find_spec(PARQUET) is None:
        raise InputError(
            f"--out: expected the package {PARQUET} for Parquet, received none; try pip install "
            "'graft-transfer[parquet]', or --out " + str(out.with_suffix(".npz"))
        )
    import numpy as np
    import torch

    from graft.inference.batches import rows_of
    from graft.inference.classify import find_device
    from graft.inference.images import embedding
    from graft.inference.load import open_model
    from graft.inference.sources import image_paths

    opened = open_model(args.model, import_code=args.import_code)
    opened.module.to(find_device(args.device))
    paths = [(path, path) for path in image_paths(args.paths, column=args.column, stdin=sys.stdin)]
    rows = list(rows_of(paths, opened.preprocess, embedding(opened), batch_size=args.batch_size))
    vectors = {path: row.numpy() for path, row in rows if isinstance(row, torch.Tensor)}
    unread = [row for _, row in rows if isinstance(row, str)]
    if not vectors:
        raise InputError(f"PATHS: expected images that can be read, received {'; '.join(unread) or 'none'}")
    matrix = np.stack(list(vectors.values()))
    WRITERS[out.suffix.lower()](out, list(vectors), matrix)
    print(f"{len(matrix):,} embeddings of {matrix.shape[1]:,} values: {out}")
    print(*(f"graft embed: {reason}" for reason in unread), sep="\n", end="\n" if unread else "", file=sys.stderr)
    return 1 if unread else 0


def write_npz(out: Path, paths: Sequence[str], matrix: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    import numpy as np

    from graft.system.files import atomic_path

    with atomic_path(out) as temporary:
        np.savez(temporary, path=np.array(paths), embedding=matrix)


def write_parquet(out: Path, paths: Sequence[str], matrix: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    from graft.system.files import atomic_path

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    with atomic_path(out) as temporary:
        parquet.write_table(pa.table({"path": list(paths), "embedding": vectors}), temporary)


WRITERS = {".npz": write_npz, ".parquet": write_parquet}
