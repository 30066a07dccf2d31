"""Linear CKA: what it must not see, what it must, and the command."""

import json
import math

import pytest
import timm
import torch
from PIL import Image

from graft.commands.cli import dispatch
from graft.config.faults import InputError
from graft.config.schema import HeadConfig, HeadKind, Library
from graft.inference.load import open_model
from graft.weights import activations
from graft.weights.activations import Capture, grams, stages_of
from graft.weights.alignment import cka, gram, linear_cka


def noise(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_identical_features_give_one_and_it_is_symmetric():
    x, y = noise(20, 50, 0), noise(20, 30, 1)
    assert linear_cka(x, x) == pytest.approx(1, abs=1e-6)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), abs=1e-12)
    assert 0 < linear_cka(x, y) < 1


def test_orthogonal_transforms_scales_and_shifts_are_not_seen():
    x, y = noise(20, 12, 0), noise(20, 7, 1)
    rotation = torch.linalg.qr(noise(12, 12, 2).double())[0].float()
    plain = linear_cka(x, y)
    assert linear_cka(x @ rotation, y) == pytest.approx(plain, abs=1e-6)
    assert linear_cka(-3.5 * x, y) == pytest.approx(plain, abs=1e-6)
    assert linear_cka(x + 4, y) == pytest.approx(plain, abs=1e-5)
    assert linear_cka(x @ rotation, x) == pytest.approx(1, abs=1e-6)
    assert abs(linear_cka(x @ torch.diag(torch.arange(1.0, 13)), y) - plain) > 1e-3  # other maps are seen


def test_it_is_the_formula_over_features():
    x, y = noise(15, 6, 0).double(), noise(15, 4, 1).double()
    x_centred, y_centred = x - x.mean(0), y - y.mean(0)
    cross = (y_centred.T @ x_centred).norm() ** 2
    expected = cross / ((x_centred.T @ x_centred).norm() * (y_centred.T @ y_centred).norm())
    assert linear_cka(x, y) == pytest.approx(float(expected), abs=1e-12)


def test_features_that_do_not_vary_have_none():
    assert math.isnan(cka(gram(torch.ones(5, 3), torch.ones(5, 3)), gram(noise(5, 3, 0), noise(5, 3, 0))))


def test_blocks_give_the_gram_matrix_of_the_whole(monkeypatch):
    images = noise(11, 6, 0)
    whole = grams(lambda batch: {"layer": batch, "head": batch[:, :2]}, lambda rows: images[list(rows)], 11)
    monkeypatch.setattr(activations, "BYTES", 2 * 4 * 8 * 4)  # four images a block
    parts = grams(lambda batch: {"layer": batch, "head": batch[:, :2]}, lambda rows: images[list(rows)], 11)
    for stage in ("layer", "head"):
        torch.testing.assert_close(whole[stage], parts[stage], atol=1e-5, rtol=0)


@pytest.mark.parametrize("images_a_block", [3, 11])
def test_a_gram_matrix_is_symmetric_where_the_product_is_not(monkeypatch, images_a_block):
    """Which BLAS rounds x @ x.T symmetrically, and for which shapes, is its own affair."""

    def rounded(x, y):
        count = torch.arange(len(x) * len(y), dtype=torch.float64).reshape(len(x), len(y))
        return gram(x, y) * (1 + 1e-7 * count.sin())

    images = noise(11, 50, 0)
    monkeypatch.setattr(activations, "gram", rounded)
    monkeypatch.setattr(activations, "BYTES", 2 * 4 * 100 * images_a_block)
    found = grams(lambda batch: {"layer": batch, "head": batch}, lambda rows: images[list(rows)], 11)
    for stage in ("layer", "head"):
        assert torch.equal(found[stage], found[stage].T)
        torch.testing.assert_close(found[stage].float(), images @ images.T, atol=1e-4, rtol=1e-4)


def test_one_image_is_too_few():
    with pytest.raises(InputError, match="two readable images"):
        grams(lambda batch: {"head": batch}, lambda rows: torch.zeros(len(rows), 2), 1)


def test_a_stage_is_what_its_last_module_gives(timm_model):
    opened = open_model(timm_model)
    stages = stages_of(opened)
    images = torch.randn(2, 3, 64, 64)
    found = Capture(opened.module, stages, torch.device("cpu"))(images)
    assert list(found) == [*stages.names, "head"]
    with torch.no_grad():
        assert torch.equal(found["head"], opened.module(images))
        last = opened.module.forward_features(images)
    assert torch.equal(found[stages.names[-1]], last.flatten(1))
    assert not any(module._forward_hooks for module in opened.module.modules())


def test_a_stage_is_its_last_block_where_the_network_calls_its_blocks_alone(build_small, export_network, tmp_path):
    built = build_small(Library.timm, "test_efficientnet", HeadConfig(kind=HeadKind.stages))
    opened = open_model(export_network(tmp_path / "model", built))
    stages, images = stages_of(opened), torch.randn(2, 3, 64, 64)
    found = Capture(opened.module, stages, torch.device("cpu"))(images)
    assert list(found) == [*stages.names, "head"]
    plain = timm.create_model("test_efficientnet", num_classes=3).eval()
    trunk = {name: value for name, value in opened.module.state_dict().items() if not name.startswith("classifier")}
    plain.load_state_dict({**plain.state_dict(), **trunk}, strict=True)
    expected = Capture(plain, stages, torch.device("cpu"))(images)
    for stage in stages.names:
        torch.testing.assert_close(found[stage], expected[stage], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("plot", "said"), [("a.pdf", "a file in .png, received a.pdf; try a.png"), ("no/a.png", "exists")]
)
def test_a_plot_that_cannot_be_written_is_told_before_anything_is_read(plot, said):
    with pytest.raises(InputError, match=f"--plot: expected .*{said}"):
        dispatch(["cka", "nowhere", "nowhere", "none.png", "--plot", plot])


def test_the_command_compares_two_models_on_images(timm_model, torchvision_model, pictures, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no image")
    words = ["cka", str(timm_model), str(timm_model), str(pictures), str(tmp_path / "broken.png")]
    assert dispatch([*words, "--format", "json", "--plot", str(tmp_path / "cka.png")]) == 1
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["images"] == 6
    assert told["stages_a"] == told["stages_b"]
    for place in range(len(told["stages_a"])):
        assert told["cka"][place][place] == pytest.approx(1, abs=1e-5)
    assert "broken.png" in err
    with Image.open(tmp_path / "cka.png") as drawn:
        assert drawn.width > 100
    assert dispatch(["cka", str(timm_model), str(torchvision_model), str(pictures)]) == 0
    table = capsys.readouterr().out
    assert "stem" in table
    assert "6 images" in table
