"""Runs whose head is solved: what is solved, what it is worth, what is said of it."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

import graft
from benchmarks.composed import composed
from graft.config.faults import InputError
from graft.heads.choice import choose_head
from graft.inference.classify import predict
from graft.pipeline import candidates
from graft.pipeline.run import run
from graft.plan import features as features_plan
from graft.report.record import read_run
from graft.results.predictions import read_predictions
from tests.pipeline.coloured import BACKBONE, COLOURS, carried_out, words, write_images_and_donor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """180 images in which one channel is a little brighter, 60 of each for every part, and a donor."""
    place = tmp_path_factory.mktemp("coloured")
    write_images_and_donor(place, images=60, brighter=25)
    return place


def test_the_default_head_is_what_scikit_learn_finds_on_the_same_features(folder: Path, tmp_path: Path) -> None:
    metrics = carried_out(folder, tmp_path)
    model: Any = graft.load(tmp_path / "run")
    trunk = model.network if hasattr(model, "network") else model
    told = read_predictions(tmp_path / "run" / "predictions.csv")
    assert set(told) == {"val", "test"}

    def features(part: str) -> tuple[np.ndarray, np.ndarray]:
        files = sorted((folder / "images" / part).rglob("*.png"))
        with torch.inference_mode():
            images = torch.stack([model.preprocess(path) for path in files])
            maps = _timm_of(trunk).forward_features(images)
            vectors = _timm_of(trunk).forward_head(maps, pre_logits=True)
        return vectors.double().numpy(), np.array([COLOURS.index(path.parent.name) for path in files])

    (x, y), (z, _) = features("train"), features("test")
    mean, scale = x.mean(0), x.std(0) * x.shape[1] ** 0.5
    strength = 1 / (metrics["head"]["penalty"] * len(x))
    reference = LogisticRegression(C=strength, tol=1e-10, max_iter=20_000).fit((x - mean) / scale, y)
    expected = reference.predict_proba((z - mean) / scale)
    order = [model.classes.index(name) for name in COLOURS]
    by_path = dict(zip(told["test"].paths, told["test"].answers_NK, strict=True))
    files = sorted((folder / "images" / "test").rglob("*.png"))
    received = np.stack(
        [next(row for path, row in by_path.items() if path.endswith(str(file)[-20:])) for file in files]
    )
    assert np.abs(received[:, order] - expected).max() < 2e-3
    assert metrics["frozen_verified"] is True
    assert metrics["epochs"] == metrics["steps"] == 0


def _timm_of(module: Any) -> Any:
    return next(each for each in module.modules() if hasattr(each, "forward_features"))


def test_the_same_command_gives_the_same_bits(folder: Path, tmp_path: Path) -> None:
    carried_out(folder, tmp_path / "one")
    carried_out(folder, tmp_path / "two", "seed=5")
    read = [(tmp_path / name / "run/model/model.safetensors").read_bytes() for name in ("one", "two")]
    assert read[0] == read[1]


def test_metrics_and_report_have_the_path_of_penalties(folder: Path, tmp_path: Path) -> None:
    head = carried_out(folder, tmp_path)["head"]
    losses = [point["loss"] for point in head["path"]]
    assert head["solver"] == "convex"
    assert head["chosen_by"] == "validation"
    assert head["penalty"] == head["path"][losses.index(min(losses))]["penalty"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Penalty" in page
    assert f"The head was solved for {len(losses)} penalties" in page
    assert "The head was solved in" in page
    assert "What one pass can give" in page
    assert "last layer (taken)" in page
    assert "Freeze timeline" not in page  # it is over epochs
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["val/loss"]) == pytest.approx(min(losses), rel=1e-3)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_refit_uses_validation_images_too_and_says_so(folder: Path, tmp_path: Path, capsys) -> None:
    metrics = carried_out(folder, tmp_path, "head.refit=true")
    assert metrics["head"]["refit"] is True
    assert metrics["val/loss"] < min(point["loss"] for point in metrics["head"]["path"])
    assert "of images that the head was solved on" in capsys.readouterr().out


def test_the_heads_that_one_pass_can_have_are_measured(folder: Path, tmp_path: Path, capsys) -> None:
    head = carried_out(folder, tmp_path)["head"]
    assert [(each["head"], each["features"]) for each in head["measured"]] == [
        ("linear", "last layer"), ("stages", "all blocks"), ("stages", "all blocks and last layer"),
    ]  # fmt: skip
    told = capsys.readouterr().out
    for each in head["measured"]:
        assert f"{each['loss']:.4f}" in told
    assert "last layer" in told
    assert "head=linear  <- taken" in told
    assert 0 <= head["neighbours"] <= 1


def test_what_mirror_images_gain_is_measured_and_predict_gives_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = carried_out(folder, tmp_path, "cache=features", "cache.views=2", "augment=light")["head"]
    told = capsys.readouterr().out
    run_folder = tmp_path / "run"
    files = {str(path): path.parent.name for path in sorted((folder / "images" / "val").rglob("*.png"))}
    for key, tta in (("averaged", "flips"), ("alone", "none")):
        answers = list(predict(run_folder, files, tta=tta))
        assert head["mirror_images"][key] == np.mean([each.top[0][0] == files[each.file] for each in answers])
    assert f"views     val accuracy {head['mirror_images']['averaged']:.4f} if the answers" in told
    assert "answers averaged over mirror images" in (run_folder / "report.html").read_text()


def test_a_donor_that_knows_the_classes_is_measured_beside_the_heads(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = carried_out(folder, tmp_path / "first")
    assert "donor_classes" not in before["head"], "the published donor names no classes"
    capsys.readouterr()
    after = carried_out(folder, tmp_path / "second", "donor=run", f"donor.path={tmp_path / 'first' / 'run'}")
    assert after["head"]["donor_classes"] == before["val/accuracy"] > 0.5
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("the donor's own classes")]
    assert row.endswith(f"{before['val/accuracy']:.4f}  donor.class_map=names")
    assert float(row.split()[4]) == pytest.approx(before["head"]["measured"][0]["loss"], abs=1e-4)


def test_a_donor_that_lacks_a_class_is_not(folder: Path, tmp_path: Path) -> None:
    carried_out(folder, tmp_path / "first")
    images = tmp_path / "images"
    shutil.copytree(folder / "images", images)
    for part in ("train", "val", "test"):
        (images / part / COLOURS[0]).rename(images / part / "another")
    words = ("donor=run", f"donor.path={tmp_path / 'first' / 'run'}", f"data.root={images}")
    assert "donor_classes" not in carried_out(folder, tmp_path / "second", *words)["head"]


def test_many_images_keep_what_the_runs_own_head_takes(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(features_plan, "MEASURED", 1e4)
    head = carried_out(folder, tmp_path)["head"]
    assert [each["features"] for each in head["measured"]] == ["last layer"]
    (kept,) = read_run(tmp_path / "run").plan["cache"]["kept"]
    assert kept["size"] < 180 * 4 * 300  # 256 numbers an image


@pytest.mark.parametrize("kind", ["linear", "stages", "auto"])
def test_each_head_is_the_best_of_its_kind_and_answers_as_exported(folder: Path, tmp_path: Path, kind: str) -> None:
    metrics = carried_out(folder, tmp_path, f"head={kind}")
    head = metrics["head"]
    allowed = [each["compared_by"] for each in head["measured"] if kind in (each["head"], "auto")]
    chosen = (head["features"], head["crop_fraction"])
    (taken,) = [each for each in head["measured"] if (each["features"], each["crop_fraction"]) == chosen]
    assert taken["compared_by"] == min(allowed)
    model: Any = graft.load(tmp_path / "run")
    for part, told in read_predictions(tmp_path / "run" / "predictions.csv").items():
        with torch.inference_mode():
            answers = model.answers(model(torch.stack([model.preprocess(path) for path in told.paths])))
        assert np.abs(told.answers_NK - answers.double().numpy()).max() < 1e-3, part
    record = read_run(tmp_path / "run").model
    assert record["head"]["kind"] == head["kind"]
    assert record["preprocess"]["crop_fraction"] == head["crop_fraction"]


def test_auto_compares_the_donors_crop_with_the_whole_image(folder: Path, tmp_path: Path, capsys) -> None:
    head = carried_out(folder, tmp_path, "head=auto")["head"]
    assert [each["crop_fraction"] for each in head["measured"]] == [0.95] * 3 + [1.0] * 3
    assert read_run(tmp_path / "run").plan["solver"]["crops"] == [0.95, 1.0]
    told = capsys.readouterr().out
    assert "data.crop_fraction=0.95 and data.crop_fraction=1 are compared" in told
    assert "head=stages data.crop_fraction=1" in told
    assert (tmp_path / "run" / "report.html").read_text().count("(taken)") == 1
    alone = carried_out(folder, tmp_path / "alone", "head=auto", "data.crop_fraction=0.95")["head"]
    assert [each["crop_fraction"] for each in alone["measured"]] == [0.95] * 3
    for before, after in zip(head["measured"][:3], alone["measured"], strict=True):
        assert before["loss"] == pytest.approx(after["loss"], rel=1e-4)
    whole = carried_out(folder, tmp_path / "whole", "head=auto", "data.resize=squash")["head"]
    assert len(whole["measured"]) == 3


def test_few_validation_images_are_not_all_that_auto_goes_by(folder: Path, tmp_path: Path, monkeypatch) -> None:
    few = carried_out(folder, tmp_path / "few", "head=auto", "data.crop_fraction=1")["head"]["measured"]
    assert all(each["compared_by"] != each["loss"] for each in few)
    monkeypatch.setattr(candidates, "COMPARED_BY_ALL", 60)
    many = carried_out(folder, tmp_path / "many", "head=auto", "data.crop_fraction=1")["head"]["measured"]
    assert all(each["compared_by"] == each["loss"] for each in many)


def test_auto_takes_the_last_layer_where_that_is_best(folder: Path, tmp_path: Path, monkeypatch) -> None:
    """Its export is then the library's own network, which loads its weights strictly."""
    monkeypatch.setattr(candidates, "choose_head", _worse_with_more_features)
    monkeypatch.setattr(candidates, "COMPARED_BY_ALL", 0)
    assert carried_out(folder, tmp_path, "head=auto")["head"]["kind"] == "linear"
    plain = timm.create_model(BACKBONE, num_classes=3)
    plain.load_state_dict(load_file(tmp_path / "run" / "model" / "model.safetensors"), strict=True)
    model: Any = graft.load(tmp_path / "run")
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(plain.eval()(images), model(images), atol=1e-5)


def _worse_with_more_features(train: Any, *others: Any, **more: Any) -> Any:
    choice = choose_head(train, *others, **more)
    path = tuple(replace(point, loss=point.loss + train.features_ND.shape[1]) for point in choice.path)
    return replace(choice, path=path)


def test_words_without_effect_are_named(folder: Path, tmp_path: Path, capsys) -> None:
    carried_out(folder, tmp_path, "optimizer.lr=0.1", "trainer.max_epochs=3")
    assert "no effect optimizer.lr=0.1, trainer.max_epochs=3: a solved head takes no steps" in capsys.readouterr().out
    plan = read_run(tmp_path / "run").plan
    assert plan["solver"]["without_effect"] == ["optimizer.lr=0.1", "trainer.max_epochs=3"]
    assert plan["steps"] == 0


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["head.solver=sgd"], "head.solver=sgd"),
        (["freeze=stage1-3"], "a trunk that trains"),
        (["cache=none"], "no kept features"),
        (["head.dropout=0.1"], "dropout before the last layer"),
        (["method.ema=0.9"], "a method that takes steps"),
        (["unfreeze=lp_ft", "unfreeze.start=1 epoch"], "a trunk that trains"),
        (["unfreeze=plateau", "trainer.max_epochs=40"], "a trunk that trains"),
    ],
)
def test_what_cannot_be_solved_trains_by_steps(folder: Path, tmp_path: Path, more: list[str], reason: str) -> None:
    given = words(folder, tmp_path, "trainer.max_epochs=2", "mode=plan", *more)
    given = [word for word in given if not (more == ["cache=none"] and word.startswith("cache.dir"))]
    run(composed(*given), tmp_path / "run", given)
    solver = read_run(tmp_path / "run").plan["solver"]
    assert solver["kind"] == "sgd"
    assert reason in solver["reason"]


def test_a_solver_that_was_asked_for_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    given = words(folder, tmp_path, "head.solver=convex", "freeze=stage1-3")
    with pytest.raises(InputError, match=r"head\.solver: expected .*, received a trunk that trains; try head\.solver"):
        run(composed(*given), tmp_path / "run", given)
    given = words(folder, tmp_path, "head.solver=convex", "head=mlp")
    with pytest.raises(InputError, match=r"head\.solver: expected a linear head .*, received head=mlp"):
        run(composed(*given), tmp_path / "run", given)
    given = words(folder, tmp_path, "head.refit=true", "head.solver=sgd")
    with pytest.raises(InputError, match=r"head\.refit: expected a head that is solved, received head\.solver=sgd"):
        run(composed(*given), tmp_path / "run", given)


MLP = ("head=mlp", "head.hidden=[8]", "head.decays=[1.0,0.01]", "head.patience=2", "optimizer.lr=0.01")


def test_hidden_layers_stop_early_and_are_what_is_exported(folder: Path, tmp_path: Path) -> None:
    metrics = carried_out(folder, tmp_path, *MLP)
    head = metrics["head"]
    assert head["solver"] == read_run(tmp_path / "run").plan["solver"]["kind"] == "early_stopping"
    assert [point["penalty"] for point in head["path"]] == [1.0, 0.01]
    best = min(head["path"], key=lambda point: point["loss"])
    assert head["penalty"] == best["penalty"]
    assert metrics["val/loss"] == pytest.approx(best["loss"], rel=1e-5)
    assert metrics["frozen_verified"] is True
    told = read_predictions(tmp_path / "run" / "predictions.csv")["val"]
    model: Any = graft.load(tmp_path / "run")
    with torch.inference_mode():
        files = sorted((folder / "images" / "val").rglob("*.png"))
        images = torch.stack([model.preprocess(file) for file in files])
        answers = model(images).softmax(1).numpy()
    by_path = dict(zip(told.paths, told.answers_NK, strict=True))
    received = np.stack(
        [next(row for path, row in by_path.items() if path.endswith(f"/{file.name}")) for file in files]
    )
    assert np.abs(received - answers).max() < 1e-4
    assert "Weight decay" in (tmp_path / "run" / "report.html").read_text()
    carried_out(folder, tmp_path / "again", *MLP)
    files = [place / "run/model/model.safetensors" for place in (tmp_path, tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes(), "a run that was killed is begun anew, to the same bits"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("head.solver=sgd", "head.solver=sgd"),
        ("optimizer.weight_decay=0.1", "optimizer.weight_decay=0.1, which is of a training for all epochs"),
        ("trainer.max_epochs=3", "trainer.max_epochs=3, which is of a training for all epochs"),
        ("optimizer.lr=find", "optimizer.lr=find"),
    ],
)
def test_hidden_layers_train_for_all_epochs_where_that_is_asked_for(
    folder: Path, tmp_path: Path, word: str, reason: str
) -> None:
    given = words(folder, tmp_path, "head=mlp", "mode=plan", word)
    run(composed(*given), tmp_path / "run", given)
    solver = read_run(tmp_path / "run").plan["solver"]
    assert (solver["kind"], solver["reason"]) == ("sgd", reason)


def test_a_trial_that_varies_only_idle_keys_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_SWEPT", "optimizer.lr,trainer.max_epochs")
    varied = ("optimizer.lr=0.1", "trainer.max_epochs=3")
    with pytest.raises(InputError, match=r"-m: .*, received optimizer\.lr, trainer\.max_epochs, which a solved"):
        carried_out(folder, tmp_path, *varied)
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.setenv("GRAFT_SWEPT", "optimizer.lr,loss.label_smoothing")
    carried_out(folder, tmp_path, "optimizer.lr=0.1", "loss.label_smoothing=0.1")


def test_a_trial_of_a_sweep_solves_its_own_head_alone_and_to_the_same_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried_out(folder, tmp_path / "run")
    monkeypatch.setenv("GRAFT_TRIAL", f"{tmp_path}:0")
    head = carried_out(folder, tmp_path / "trial")["head"]
    assert [each["features"] for each in head["measured"]] == ["last layer"]
    run, trial = (tmp_path / name / "run" / "model" / "model.safetensors" for name in ("run", "trial"))
    assert run.read_bytes() == trial.read_bytes()


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose classes nothing tells apart; nearly all of the training ones are red."""
    place = tmp_path_factory.mktemp("troubled")
    write_images_and_donor(place, images=60, brighter=0)
    for file in (place / "images" / "train").rglob("*.png"):
        if file.parent.name != "red" and int(file.stem) > 8:
            file.unlink()
    return place


def test_a_head_that_hardly_learns_anything_says_so_and_what_to_do(troubled: Path, tmp_path: Path, capsys) -> None:
    head = carried_out(troubled, tmp_path)["head"]
    told = capsys.readouterr().out
    assert head["at_end"] is True
    assert "head      the strongest penalty of all was the best (0.1): these features hardly tell" in told
    assert "try another donor, or fine-tuning (freeze=none)" in told
    assert "head      it answers red for every validation image; try loss.class_weights=balanced" in told


def test_a_validation_part_too_small_to_choose_by_is_told_with_what_to_do(
    troubled: Path, tmp_path: Path, capsys
) -> None:
    shutil.copytree(troubled, tmp_path / "fewer")
    for file in sorted((tmp_path / "fewer" / "images" / "val").rglob("*.png"))[::2]:
        file.unlink()
    head = carried_out(tmp_path / "fewer", tmp_path)["head"]
    told = capsys.readouterr().out
    assert head["chosen_by"] == "5 folds"
    assert "head      chosen by 5 folds of the training images, as the validation part is 30 images" in told
    assert "data.val_fraction=0.3" in told


def test_the_weakest_penalty_of_all_is_told_with_what_to_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    strong = [0.1, 0.03]  # where weaker ones would be better
    monkeypatch.setattr(candidates, "choose_head", partial(choose_head, penalties=strong))
    assert carried_out(folder, tmp_path)["head"]["penalty"] == 0.03
    told = capsys.readouterr().out
    assert (
        "the weakest penalty of all was the best (0.03): a weaker one may be better still; try head.solver=sgd" in told
    )


@pytest.mark.parametrize("word", ["loss.label_smoothing=0.1", "loss.class_weights=balanced", "data.balanced=true"])
def test_what_a_convex_loss_has_too_is_solved(folder: Path, tmp_path: Path, word: str) -> None:
    assert carried_out(folder, tmp_path, word)["head"]["penalty"] > 0
