"""`graft new DIR`: writes a small project, which can be trained without changes."""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path

from graft.commands.destination import folder_to_make

TEMPLATE = Path(__file__).parent / "template"
LITTER = shutil.ignore_patterns("__pycache__", "*.pyc")  # left in the template if Python has compiled it


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a folder that does not exist yet, or is empty")


def run(args: argparse.Namespace) -> int:
    folder = folder_to_make("DIR", args.folder)
    shutil.copytree(TEMPLATE, folder, ignore=LITTER, dirs_exist_ok=True)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    print(f"wrote {len(files)} files into {folder}:", *(f"  {path}" for path in files), sep="\n")
    print(f"next: cd {shlex.quote(str(folder))} && graft train experiment=first")
    return 0
