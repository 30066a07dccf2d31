"""The modules that docs/extending.md shows are written to files, and the command below each is carried out."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import graft

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
MODULES = re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for line in block.replace("\\\n", " ").splitlines()
    if any(f"{name}:" in line for name, _ in MODULES) and line.startswith("python train.py")
]
SMALL = (
    "data=folder", "data.root=photos", "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.threads=1",
    "trainer.progress=false", "data.num_workers=0",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_of_ones_own_code_trains(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in MODULES:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = shlex.split(command)[2:]
    keys = {*_keys(words), *(["data.root"] if "data" in _keys(words) else [])}
    run = graft.train(*(word for word in SMALL if word.split("=")[0] not in keys), *words, quiet=True)
    assert run.metrics["epochs"] == 1


def _keys(words: list[str]) -> set[str]:
    return {word.split("=")[0] for word in words}
