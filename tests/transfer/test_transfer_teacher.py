"""The donor's own network, built beside the one that is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir

from graft.config.compose import parse, register
from graft.config.faults import InputError
from graft.models.network import build_network
from graft.transfer import account_donor, donor_of_mapping, target_of_module
from graft.transfer.chosen import rules_for
from graft.transfer.teacher import build_teacher, plan_teacher

CONF = Path(__file__).resolve().parents[2] / "conf"


def config_of(*overrides):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        wanted = ["backbone=resnet18", "data.image_size=32", "donor.kind=pretrained", *overrides]
        return parse(compose("config", wanted))


def planned(donor, *overrides):
    config = config_of(*overrides)
    network = build_network(config.backbone, config.head, num_classes=2, image_size=32, device="meta")
    ledger = account_donor(donor, target_of_module(network.module), rules_for(config.network, network, ("a", "b")))
    return config, plan_teacher(config.network, network, ledger, donor)


@pytest.fixture(scope="module")
def library():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=11).eval()


def test_it_says_what_the_donor_says(library):
    donor = donor_of_mapping(dict(library.state_dict()))
    config, plan = planned(donor)
    assert (plan.network.classes, plan.head) == (11, "fc")
    teacher = build_teacher(config.network, plan, donor)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert teacher(images).equal(library(images))
    assert not any(value.requires_grad for value in teacher.parameters())


def test_a_donor_without_a_head_has_no_outputs_to_keep(library):
    trunk = {name: value for name, value in library.state_dict().items() if not name.startswith("fc.")}
    with pytest.raises(InputError, match=r"method\.distill: expected a donor with a head of its own.*one without"):
        planned(donor_of_mapping(trunk))


def test_a_run_that_tells_no_classes_apart_has_no_outputs_to_keep(library, tmp_path):
    (tmp_path / "model.json").write_text('{"task": {"kind": "regression"}}')
    donor = donor_of_mapping(dict(library.state_dict()))
    with pytest.raises(InputError, match=r"method\.distill: .* received a run of data\.task=regression"):
        planned(donor, "donor.kind=run", f"donor.path={tmp_path}")


def test_a_run_whose_record_is_damaged_is_told_and_one_without_a_task_tells_classes_apart(library, tmp_path):
    donor = donor_of_mapping(dict(library.state_dict()))
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(InputError, match=r"model\.json: expected a model's description in JSON"):
        planned(donor, "donor.kind=run", f"donor.path={tmp_path}")
    (tmp_path / "model.json").write_text('{"task": null}')
    assert planned(donor, "donor.kind=run", f"donor.path={tmp_path}")[1].network.classes == 11
