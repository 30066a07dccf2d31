"""graft predict: every way of naming images, every form of answer, and the unreadable ones in their place."""

import argparse
import csv
import io
import json
import math
from dataclasses import replace

import pytest
import torch

from graft.commands import predict as command
from graft.config.faults import InputError
from graft.inference.classify import find_device, predict
from graft.inference.images import load
from graft.inference.load import open_model
from graft.inference.sources import image_paths
from graft.results.model import Preparation


@pytest.fixture
def ask(timm_model, capsys):
    def run(*words: str) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        command.configure(parser)
        code = command.run(parser.parse_args([str(timm_model), *words]))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def broken(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    return str(tmp_path / "broken.png")


def test_answers_are_the_model_s_own(timm_model, pictures):
    model = load(timm_model)
    paths = [str(pictures / f"{k}.png") for k in (2, 0, 1)]
    answers = list(predict(timm_model, paths, top=2, batch_size=2))
    assert [answer.file for answer in answers] == paths
    with torch.no_grad():
        expected = model(torch.stack([model.preprocess(path) for path in paths])).softmax(1)
    for answer, row in zip(answers, expected, strict=True):
        assert answer.values == pytest.approx(row.tolist(), abs=1e-6)
        assert answer.top[0] == (model.classes[int(row.argmax())], pytest.approx(float(row.max()), abs=1e-6))
        assert answer.top[0][1] >= answer.top[1][1]


def test_an_unreadable_image_is_told_in_its_place_and_the_rest_goes_on(timm_model, pictures, broken):
    paths = [str(pictures / "0.png"), broken, "no/such/file.png", str(pictures / "1.png")]
    answers = list(predict(timm_model, paths, batch_size=3))
    assert [answer.error is None for answer in answers] == [True, False, False, True]
    assert "0 bytes" in str(answers[1].error)
    assert "no such file" in str(answers[2].error)
    alone = list(predict(timm_model, [paths[0], paths[3]]))
    assert answers[3].values == pytest.approx(alone[1].values, abs=1e-6)


def test_an_answer_that_is_not_finite_is_an_error_in_its_place(timm_model, pictures):
    model = open_model(timm_model)
    with torch.no_grad():
        model.module.get_parameter("conv_stem.weight").fill_(math.nan)
    (answer,) = predict(model, [str(pictures / "0.png")])
    assert answer.error == f"{pictures / '0.png'}: expected finite outputs of the network, received others"


def test_a_batch_of_nothing_but_errors(timm_model, broken):
    assert [answer.error is not None for answer in predict(timm_model, [broken, broken])] == [True, True]
    assert list(predict(timm_model, [])) == []


def test_json_lines(ask, pictures, broken):
    code, out, err = ask(str(pictures), broken, "--format", "jsonl", "--top", "2")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert "1 of 7 images" in err
    assert len(rows) == 7
    assert set(rows[0]) == {"file", "class", "probability", "top", "probabilities"}
    assert rows[0]["top"][0] == {"class": rows[0]["class"], "probability": rows[0]["probability"]}
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert set(rows[6]) == {"file", "error"}


def test_csv(ask, pictures, broken):
    code, out, _ = ask(str(pictures / "0.png"), broken, "--format", "csv", "--top", "2")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 1
    assert list(rows[0]) == ["file", "class", "probability", "class_2", "probability_2", "error"]
    assert rows[0]["error"] == ""
    assert float(rows[0]["probability"]) >= float(rows[0]["probability_2"])
    assert (rows[1]["class"], "0 bytes" in rows[1]["error"]) == ("", True)


def test_table_shows_names_with_brackets_as_they_are(ask, pictures, tmp_path):
    named = tmp_path / "[red]x.png"
    named.write_bytes((pictures / "0.png").read_bytes())
    code, out, _ = ask(str(named))
    assert code == 0
    assert "[red]x.png" in "".join(out.split()).replace("│", "")


def test_output_file_appears_whole(ask, pictures, tmp_path):
    code, out, _ = ask(str(pictures / "0.png"), "--format", "csv", "--output", str(tmp_path / "answers.csv"))
    assert (code, out) == (0, "")
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(("output", "said"), [("no/a.csv", "a folder that exists"), (".", "a folder that exists")])
def test_an_output_that_cannot_be_written_is_told_before_anything_is_read(graft, output, said):
    code, out, err = graft("predict", "nowhere", "none.png", "--output", output)
    assert (code, out) == (2, "")
    assert f"--output: expected a file in {said}, received {output}" in err


def test_folders_globs_lists_and_standard_input(pictures, tmp_path):
    names = [str(pictures / f"{k}.png") for k in range(4)]
    below = [str(pictures / "more" / f"{k}.png") for k in (4, 5)]
    (pictures / "notes.txt").write_text("no image")
    assert list(image_paths([str(pictures)])) == names + below
    assert list(image_paths([str(pictures / "*.png")])) == names
    assert list(image_paths([str(pictures / "**" / "*.png")])) == names + below
    assert list(image_paths(["-"], stdin=io.StringIO(f"{names[1]}\n\n{names[0]}\n"))) == [names[1], names[0]]
    (tmp_path / "list.csv").write_text(f"image,x\n{names[3]},1\nrelative.png,2\n")
    listed = list(image_paths([str(tmp_path / "list.csv")], column="image"))
    assert listed == [names[3], str(tmp_path / "relative.png")]


def test_sources_that_name_nothing(tmp_path):
    (tmp_path / "list.csv").write_text("image\nx.png\n")
    for source, said in (
        (str(tmp_path), "folder without any"),
        (str(tmp_path / "*.png"), "matches nothing"),
        (str(tmp_path / "list.csv"), "--column"),
        (str(tmp_path / "none.csv"), "readable CSV"),
    ):
        with pytest.raises(InputError, match=said):
            list(image_paths([source]))


def test_an_unknown_device():
    with pytest.raises(InputError, match="try cpu"):
        find_device("cuda:99")


@pytest.mark.parametrize("tta", ["flips", "crops", "flips+crops"])
def test_answers_of_several_views_are_averaged(timm_model, pictures, tta):
    """Probabilities, not outputs; of the image, its mirror image, the other crop, as they are named."""
    model = open_model(timm_model)
    settings = model.preprocess.settings
    other = Preparation(replace(settings, crop_fraction=1.0 if settings.crop_fraction < 1 else 0.875))
    paths = [str(pictures / f"{k}.png") for k in range(3)]
    for path, answer in zip(paths, predict(timm_model, paths, tta=tta, batch_size=2), strict=True):
        views = [model.preprocess(path)] + ([other(path)] if "crops" in tta else [])
        views += [view.flip(-1) for view in views] if "flips" in tta else []
        with torch.no_grad():
            expected = model.module(torch.stack(views)).softmax(1).mean(0)
        assert answer.values == pytest.approx(expected.tolist(), abs=1e-6)


def test_what_several_views_gain_is_told(ask, timm_model, pictures, tmp_path):
    model = open_model(timm_model)
    paths = [str(pictures / f"{k}.png") for k in range(4)]
    likeliest = [answer.top[0][0] for answer in predict(timm_model, paths)]
    other = next(name for name in model.classes if name != likeliest[3])
    table = tmp_path / "true.csv"
    rows = zip(paths, [*likeliest[:3], other], strict=True)
    table.write_text("path,label\n" + "".join(f"{path},{name}\n" for path, name in rows))
    code, _, told = ask(str(table), "--label-column", "label")
    assert code == 0
    assert "accuracy 0.7500 of 4 images" in told
    _, _, told = ask(str(table), "--label-column", "label", "--tta", "flips")
    assert "with --tta flips, 0.7500 without" in told


@pytest.mark.parametrize(
    ("rows", "words", "message"),
    [
        ("path,label\n{path},zebra\n", ["--label-column", "label"], "the model's classes .*, received zebra"),
        ("path,label\n{path},a\n", ["--label-column", "class"], "expected a column 'class'"),
        (None, ["--label-column", "label"], "expected a CSV"),
    ],
)
def test_true_classes_that_cannot_be_read(ask, pictures, tmp_path, rows, words, message):
    source = str(pictures / "0.png")
    if rows is not None:
        table = tmp_path / "true.csv"
        table.write_text(rows.format(path=source))
        source = str(table)
    with pytest.raises(InputError, match=message):
        ask(source, *words)
