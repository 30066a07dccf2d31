"""Writes docs/reference.md anew from the schema and conf/.

python scripts/write_reference.py
"""

from __future__ import annotations

from pathlib import Path

from graft.config.help import reference
from graft.system.files import write_text

ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    write_text(ROOT / "docs" / "reference.md", reference(ROOT / "conf"))
