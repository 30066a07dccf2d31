"""README's five commands as they are typed, on real images: monocrystalline solar cells, whole and defective ones."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import graft

HEADING = "## Five commands"
CLASSES = {"whole": "0.0", "defective": "1.0"}  # by the annotated probability of a defect
LEARNT, NEW = 60, 6  # images of each class
FETCHES = re.compile(r"""(?:src|href)="(?!data:|#)|url\((?!["']?(?:data:|#))|@import|<link|<iframe""")


def five_commands(root: Path) -> list[str]:
    section = (root / "README.md").read_text(encoding="utf-8").split(HEADING)[1]
    lines = re.search(r"^```bash\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert lines
    return lines[1].splitlines()


def write_images(folder: Path) -> None:
    """photos/CLASS/*.png to learn from and new/*.png, named by their class, to be asked about."""
    package = find_spec("elpv_dataset")
    assert package
    assert package.submodule_search_locations
    data = Path(next(iter(package.submodule_search_locations))) / "data"
    lines = [line.split() for line in (data / "labels.csv").read_text(encoding="utf-8").splitlines()]
    for name, probability in CLASSES.items():
        found = [data / file for file, given, kind in lines if given == probability and kind == "mono"]
        files = found[:: len(found) // (LEARNT + NEW)][: LEARNT + NEW]  # from every solar module
        learnt, new = folder / "photos" / name, folder / "new"
        learnt.mkdir(parents=True)
        new.mkdir(exist_ok=True)
        for number, file in enumerate(files):
            to = new / f"{name}-{number}.png" if number % 11 == 0 else learnt / f"{number}.png"
            Image.open(file).save(to)


def carry_out(command: str, folder: Path, root: Path) -> str:
    words = shlex.split(command, comments=True)
    if words[0] == "python":
        words = [sys.executable, str(root / words[1]), *words[2:]]
    else:
        assert words[0] == "graft"
        words = [sys.executable, "-c", "from graft.commands.cli import main; raise SystemExit(main())", *words[1:]]
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_five_commands_lead_from_a_folder_of_images_to_a_model_elsewhere(tmp_path: Path, root: Path) -> None:
    write_images(tmp_path)
    plan, train, report, predict, export = five_commands(root)

    planned = carry_out(plan, tmp_path, root)
    assert re.search(r"^stage7 +1,017,600 +7,812 +frozen$", planned, re.MULTILINE)
    assert not (tmp_path / "outputs" / "photos").exists()

    assert "frozen tensors verified" in carry_out(train, tmp_path, root)
    run = tmp_path / "outputs" / "photos"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["frozen_verified"] is True
    assert metrics["test/accuracy"] > 0.6
    assert json.loads((run / "plan.json").read_text())["data"]["parts"]["test"] == {"defective": 12, "whole": 12}

    carry_out(report, tmp_path, root)
    page = (tmp_path / "photos.html").read_text(encoding="utf-8")
    assert FETCHES.findall(page) == []
    assert f"{metrics['test/accuracy']:.3f}" in page
    assert page.count("<svg") >= 2  # the penalty's path, reliability
    assert page.count('src="data:image') > 8

    carry_out(predict, tmp_path, root)
    with open(tmp_path / "answers.csv", encoding="utf-8", newline="") as file:
        answers = list(csv.DictReader(file))
    assert sorted(Path(answer["file"]).name for answer in answers) == sorted(os.listdir(tmp_path / "new"))
    right = sum(Path(answer["file"]).name.startswith(answer["class"]) for answer in answers)
    assert right > 0.6 * len(answers)

    carry_out(export, tmp_path, root)
    model = graft.load(run)
    assert list(model.classes) == sorted(CLASSES)
    session = onnxruntime.InferenceSession(tmp_path / "photos.onnx", providers=["CPUExecutionProvider"])
    pictures = [np.asarray(Image.open(tmp_path / answer["file"]).convert("RGB")) for answer in answers]
    probabilities_NK = np.stack([session.run(["probabilities"], {"pixels": picture})[0] for picture in pictures])
    assert [model.classes[place] for place in probabilities_NK.argmax(1)] == [answer["class"] for answer in answers]
    said = [float(answer["probability"]) for answer in answers]
    np.testing.assert_allclose(probabilities_NK.max(1), said, atol=1e-4)
