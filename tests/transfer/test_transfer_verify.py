"""donor.verify: the donor's own model and the new trunk agree, or training does not begin."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from graft.config.compose import parse, register
from graft.config.faults import InputError
from graft.config.schema import Config
from graft.models.network import Network, build_network, plain_model
from graft.results.export import export
from graft.transfer import Ledger, account_donor, inject, target_of_module
from graft.transfer.chosen import open_chosen, rules_for
from graft.transfer.verify import check_verifiable, verify

CONF = Path(__file__).resolve().parents[2] / "conf"
PACKAGED = sorted(file.stem for file in (CONF / "backbone").glob("*.yaml") if "\n  package:" in file.read_text())
SMALL = ["backbone=timm", "backbone.name=test_efficientnet", "data.image_size=64", "donor=file", "donor.verify=true"]


@pytest.fixture(scope="module")
def config() -> Callable[..., Config]:
    def composed(*overrides: str) -> Config:
        register()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return parse(compose("config", list(overrides)))

    return composed


def transferred(config: Config) -> tuple[Network, Ledger]:
    """What the run does between its plan and its training."""
    network = build_network(
        config.backbone, config.head, num_classes=2, channels=config.data.channels, image_size=config.data.image_size
    )
    with open_chosen(config.network) as donor:
        ledger = account_donor(donor, target_of_module(network.module), rules_for(config.network, network, ["a", "b"]))
        check_verifiable(ledger, network.stages)
        inject(ledger, donor, network.module)
        verify(config.network, ledger, donor, network)
    return network, ledger


def own(classes: int = 5, name: str = "test_efficientnet") -> nn.Module:
    """A timm model of which no weight is the default of another."""
    torch.manual_seed(1)
    module = plain_model({"library": "timm", "name": name, "kwargs": {}, "num_classes": classes, "channels": 3})
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.add_(0.05 * torch.rand_like(value))
    return module.eval()


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("donor") / "d"
    torch.save({"state_dict": {f"module.{name}": value for name, value in own().state_dict().items()}}, path)
    return path


@pytest.fixture(scope="module")
def verified(config, donor: Path) -> tuple[Config, Network, Ledger]:
    chosen = config(*SMALL, f"donor.path={donor}")
    return chosen, *transferred(chosen)


def test_there_are_packaged_donors() -> None:
    assert PACKAGED == ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]


@pytest.mark.parametrize("backbone", PACKAGED)
def test_a_packaged_donor_computes_what_the_library_s_model_does(config, backbone: str) -> None:
    network, ledger = transferred(config(f"backbone={backbone}", "data.image_size=64", "donor.verify=true"))
    proof = ledger.to_dict()["donor"]["verified"]
    assert proof["probe"].startswith(f"2 images of 3×64×64, normal noise of seed 0, through timm tf_{backbone}")
    assert 0 <= proof["largest_difference"] <= 1e-5 <= proof["tolerance"]
    # the same by hand: the library's own model, strictly loaded with the renamed file
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    plain = plain_model({**network.build, "num_classes": 1000}).eval()
    with open_chosen(config(f"backbone={backbone}")) as opened:
        full = {entry.source: entry.target for entry in ledger.tensors if entry.source}
        heads = {"_fc.weight": "classifier.weight", "_fc.bias": "classifier.bias"}
        plain.load_state_dict({(full | heads)[name]: opened.read(name) for name in opened.infos}, strict=True)
    with torch.no_grad():
        ours, theirs = (each.eval().forward_features(images) for each in (network.module, plain))
    assert float(theirs.std()) > 0.1
    assert float((ours - theirs).abs().max()) <= 1e-5


def test_a_file_is_compared_with_the_backbone_under_its_own_head_and_names(verified, donor: Path) -> None:
    *_, ledger = verified
    assert ledger.donor["verified"] == {
        "probe": f"2 images of 3×64×64, normal noise of seed 0, through timm test_efficientnet with all of {donor}",
        "largest_difference": 0.0,
        "tolerance": ledger.donor["verified"]["tolerance"],
    }
    assert 1e-5 <= ledger.donor["verified"]["tolerance"] < 1e-2


def test_two_tensors_of_one_shape_in_each_other_s_place_are_found(config, donor: Path) -> None:
    swap = r"donor.rename=[['bn1\.running_mean$','bn1.x'],['bn1\.bias$','bn1.running_mean'],['bn1\.x$','bn1.bias']]"
    with pytest.raises(InputError, match=r"donor\.verify: expected features within .*, received a difference of \d"):
        transferred(config(*SMALL, f"donor.path={donor}", swap))


def test_a_value_changed_on_the_way_is_found_and_all_modes_are_left(verified) -> None:
    chosen, network, ledger = verified
    ledger = replace(ledger, verified=None)
    variance, norm = network.module.get_submodule("blocks.0.0.bn1").running_var, network.module.get_submodule("bn1")
    before = variance.clone()
    network.module.train()
    norm.eval()
    try:
        variance.mul_(1.001)
        with open_chosen(chosen.network) as opened, pytest.raises(InputError, match="received a difference of"):
            verify(chosen.network, ledger, opened, network)
    finally:
        variance.copy_(before)
    assert "verified" not in ledger.donor
    assert (network.module.training, norm.training) == (True, False)
    assert not any(child._forward_pre_hooks for child in network.module.modules())


def test_adapted_tensors_have_no_model_of_their_own(config, donor: Path) -> None:
    with pytest.raises(
        InputError, match=r"received 1 adapted \(conv_stem\.weight\), which no model of the donor's own"
    ):
        transferred(config(*SMALL, f"donor.path={donor}", "data.channels=1"))
    skipped = r"received 4 without a donor's value \(bn1\.weight, bn1\.bias, bn1\.running_mean, …\)"
    with pytest.raises(InputError, match=skipped):
        transferred(config(*SMALL, f"donor.path={donor}", "donor.skip=[bn1.*]"))


def test_a_file_of_other_names_has_no_known_model(config, tmp_path: Path) -> None:
    torch.save({f"encoder.{name}": value for name, value in own().state_dict().items()}, tmp_path / "d")
    rename = r"donor.rename=[['^encoder\.','']]"
    reason = r"none: under its own names it does not fit timm's test_efficientnet: \d+ missing \(conv_stem\.weight"
    with pytest.raises(InputError, match=reason):
        transferred(config(*SMALL, f"donor.path={tmp_path / 'd'}", rename))


def test_a_donor_that_gives_the_same_for_every_image_proves_nothing(config, tmp_path: Path) -> None:
    state = {name: torch.zeros_like(value) for name, value in own().state_dict().items()}
    torch.save(state, tmp_path / "d")
    with pytest.raises(InputError, match="expected features that tell images apart"):
        transferred(config(*SMALL, f"donor.path={tmp_path / 'd'}"))


def test_a_donor_without_a_model_is_told_before_anything_is_opened(config) -> None:
    with pytest.raises(InputError, match=r"donor\.verify: expected false with donor=none, which .*try donor.verify"):
        config("donor=none", "donor.verify=true", "freeze=none")


def test_a_run_is_compared_with_the_model_that_it_wrote(config, tmp_path: Path, donor: Path) -> None:
    first = config(*SMALL, f"donor.path={donor}", "head=mlp", "head.hidden=[7]", "donor.verify=false")
    network = build_network(first.backbone, first.head, num_classes=3, image_size=64)
    trunk = {name: value for name, value in own().state_dict().items() if not name.startswith("classifier")}
    network.module.load_state_dict(network.module.state_dict() | trunk)
    told = {"donor": {"source": "d"}, "freeze": {}}
    export(network, tmp_path / "run" / "model", classes=["a", "b", "c"], **told)
    words = [*SMALL[:3], "donor=run", f"donor.path={tmp_path / 'run'}", "donor.verify=true"]
    _, ledger = transferred(config(*words))
    assert ledger.donor["verified"]["probe"].endswith(f"through the model of {tmp_path / 'run'}")
    assert ledger.donor["verified"]["largest_difference"] == 0.0


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable module of factories."""
    name = f"live_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "import timm, torch\n"
        "def same():\n"
        "    torch.manual_seed(3)\n"
        "    return timm.create_model('test_efficientnet', num_classes=4)\n"
        "def other():\n"
        "    return timm.create_model('test_efficientnet', num_classes=4)\n"
        "def wrapped():\n"
        "    outer = torch.nn.Module()\n"
        "    outer.model = same()\n"
        "    outer.forward = lambda x: outer.model(x)\n"
        "    return outer\n"
        "def endless():\n"
        "    inner = same()\n"
        "    outer = torch.nn.Sequential()\n"
        "    outer.add_module('encoder', inner)\n"
        "    return outer\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("factory", ["same", "wrapped"])
def test_a_live_module_is_its_own_model(config, live: str, factory: str) -> None:
    _, ledger = transferred(config(*SMALL, f"donor.path='python:{live}:{factory}'"))
    assert ledger.donor["verified"]["probe"].endswith(f"through python:{live}:{factory}")
    assert ledger.donor["verified"]["largest_difference"] == 0.0


def test_a_live_module_without_the_place_where_the_trunk_ends_is_told(config, live: str) -> None:
    rules = [r"donor.rename=[['^encoder\.','']]", "donor.ignore=[encoder.classifier.*]"]
    with pytest.raises(InputError, match="to have a module classifier, where its trunk ends, received none"):
        transferred(config(*SMALL, f"donor.path='python:{live}:endless'", *rules))


def test_a_live_module_s_hash_is_recorded_and_can_be_pinned(config, live: str) -> None:
    words = [*SMALL, f"donor.path='python:{live}:same'"]
    _, ledger = transferred(config(*words))
    assert len(str(ledger.donor["sha256"])) == 64
    transferred(config(*words, f"donor.sha256={ledger.donor['sha256']}"))
    with pytest.raises(InputError, match=f"expected sha256 {'0' * 64}, received {ledger.donor['sha256']}"):
        transferred(config(*words, f"donor.sha256={'0' * 64}"))


def test_a_factory_that_gives_other_values_than_were_accounted_for_is_refused(config, live: str) -> None:
    chosen = config(*SMALL, f"donor.path='python:{live}:other'")
    network = build_network(chosen.backbone, chosen.head, num_classes=2, image_size=64)
    with open_chosen(chosen.network) as donor:
        ledger = account_donor(donor, target_of_module(network.module), rules_for(chosen.network, network, ["a", "b"]))
    with (
        open_chosen(chosen.network) as donor,
        pytest.raises(InputError, match="expected the values that were accounted for"),
    ):
        inject(ledger, donor, network.module)


HUGGING_FACE: dict[str, tuple[tuple[str, ...], str, dict[str, Any]]] = {
    "ViTForImageClassification": (
        ("test_vit", "data.image_size=160"), "ViTConfig",
        {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 192,
         "image_size": 160, "patch_size": 16, "layer_norm_eps": 1e-6},
    ),
    "Dinov2WithRegistersModel": (
        ("vit_small_patch14_reg4_dinov2", "data.image_size=28", "backbone.kwargs={depth:2,embed_dim:64,num_heads:2}"),
        "Dinov2WithRegistersConfig",
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
    ),
    "SwinForImageClassification": (
        ("swin_tiny_patch4_window7_224", "data.image_size=56",
         "backbone.kwargs={embed_dim:16,depths:[1,2],num_heads:[2,4]}"),
        "SwinConfig", {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "image_size": 56},
    ),
    "ConvNextForImageClassification": (
        ("convnext_atto", "data.image_size=64"), "ConvNextConfig",
        {"depths": [2, 2, 6, 2], "hidden_sizes": [40, 80, 160, 320], "layer_norm_eps": 1e-6},
    ),
    "ResNetForImageClassification": (
        ("resnet18", "data.image_size=64"), "ResNetConfig",
        {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]},
    ),
}  # fmt: skip
"""What is typed for each, and the sizes of a small one."""


def of_transformers(network: str, folder: Path) -> tuple[str, ...]:
    """A folder as transformers saves it, no weight of which is the default of another; and the command's words."""
    import transformers

    (name, *words), config, sizes = HUGGING_FACE[network]
    model = getattr(transformers, network)(getattr(transformers, config)(**sizes, num_labels=5))
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.05 * torch.rand_like(value))
    model.save_pretrained(folder)
    typed = ("backbone=timm", f"backbone.name={name}", "donor=file", f"donor.path={folder}", "donor.verify=true")
    return (*typed, *words)


@pytest.mark.parametrize("network", HUGGING_FACE)
def test_a_folder_of_transformers_is_run_by_transformers(config, network: str, tmp_path: Path) -> None:
    _, ledger = transferred(config(*of_transformers(network, tmp_path)))
    assert ledger.verified is not None
    assert ledger.verified["probe"].endswith(f"through the model that {tmp_path} describes")
    assert ledger.verified["largest_difference"] < 1e-6


def test_a_wrong_order_of_a_joined_tensor_is_noticed(config, tmp_path: Path) -> None:
    words = of_transformers("ViTForImageClassification", tmp_path)
    swapped = "donor.adapt={blocks.3.attn.qkv.*:{name:join,order:[key,query,value]}}"
    with pytest.raises(InputError, match=r"donor\.verify: expected features within .*, received a difference of"):
        transferred(config(*words, swapped))


def test_a_folder_that_transformers_cannot_build_is_answered(config, tmp_path: Path) -> None:
    words = of_transformers("ViTForImageClassification", tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, "patch_size": 8}))
    with pytest.raises(InputError, match=r"donor\.verify: expected a folder of which transformers builds its model"):
        transferred(config(*words))
