"""Distillation from the donor's own outputs: its value, what it moves, and that it keeps what would be forgotten."""

import copy

import pytest
import torch

from graft.config.choices import ClassWeights
from graft.config.schema import LossConfig, MethodConfig
from graft.finetune.methods.distill import Distillation
from graft.tasks.single_label import SingleLabel

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def teacher_of(network, tiny, classes=7):
    """The same trunk with a head for other classes."""
    teacher = tiny.network(classes)
    head = {name: value for name, value in teacher.state_dict().items() if name.startswith("fc.")}
    teacher.load_state_dict({**network.state_dict(), **head})
    return teacher.eval().requires_grad_(False)


def test_the_penalty_is_the_papers_between_the_donors_head_on_both_trunks(tiny):
    network = tiny.network().eval()
    teacher = teacher_of(network, tiny)
    with torch.no_grad():
        teacher.fc.weight.mul_(20)  # outputs far enough apart that the penalty is more than rounding
    distillation = Distillation(network, teacher, "fc", strength=0.5, temperature=2.0)
    with distillation.listening():
        network(IMAGES)
    assert distillation.penalty(IMAGES).item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        network.layer3.conv.weight.add_(0.3)
    student = copy.deepcopy(network)
    student.fc = teacher.fc
    with torch.no_grad():
        p, q = ((logits.double() / 2).softmax(1) for logits in (teacher(IMAGES), student(IMAGES)))
    expected = 0.5 * 4 * (p * (p / q).log()).sum(1).mean()
    with distillation.listening():
        network(IMAGES)
    penalty = distillation.penalty(IMAGES)
    assert expected > 0.05
    assert penalty.item() == pytest.approx(float(expected), rel=1e-4)
    penalty.backward()
    assert float(network.layer3.conv.weight.grad.norm()) > 0
    assert network.fc.weight.grad is None  # the new head has no part in it
    assert all(value.grad is None for value in teacher.parameters())


def test_an_image_weighs_in_the_penalty_what_it_weighs_in_the_loss(tiny):
    network = tiny.network().eval()
    distillation = Distillation(network, teacher_of(network, tiny), "fc", strength=0.5, temperature=2.0)
    with torch.no_grad():
        network.layer3.conv.weight.add_(0.3)

    def penalty(images, weights=None):
        with distillation.listening():
            network(images)
        return distillation.penalty(images, weights).item()

    first, second = penalty(IMAGES[:1]), penalty(IMAGES[1:2])
    assert first != pytest.approx(second, rel=1e-2)
    weighed = penalty(IMAGES[:2], torch.tensor([3.0, 1.0]))
    assert weighed == pytest.approx((3 * first + second) / 4, rel=1e-4)


def test_a_step_weighs_its_images_alike_in_loss_and_penalty(tiny, tmp_path, monkeypatch):
    module, seen = tiny.network(), []
    task = SingleLabel(["a", "b", "c"], [9, 9, 8])
    tuning = tiny.tuning(
        module, teacher=teacher_of(module, tiny), method=MethodConfig(distill=0.5), task=task,
        loss=LossConfig(class_weights=ClassWeights.balanced),
    )  # fmt: skip
    penalty = Distillation.penalty

    def noted(self, images, weights=None):
        seen.append(weights)
        return penalty(self, images, weights)

    monkeypatch.setattr(Distillation, "penalty", noted)
    tiny.fit(tuning, tiny.Data(), tmp_path, trainer=tiny.trainer(max_epochs=1))
    weighed = sorted({round(float(each), 4) for weights in seen for each in weights})
    assert weighed == [round(26 / 3 / count, 4) for count in (9, 8)]


def test_no_hook_and_no_tensor_is_left_on_the_network(tiny):
    network = tiny.network()
    names = set(network.state_dict())
    distillation = Distillation(network, teacher_of(network, tiny), "fc", 1.0, 2.0)
    with pytest.raises(RuntimeError), distillation.listening():
        network(IMAGES[:, :1])
    assert not network.fc._forward_pre_hooks
    assert set(network.state_dict()) == names


def test_it_keeps_the_donors_outputs_nearer_to_what_they_were(tiny, tmp_path):
    def forgotten(strength):
        network = tiny.network()
        teacher = teacher_of(network, tiny)
        tuning = tiny.tuning(network, method=MethodConfig(distill=strength), teacher=teacher if strength else None)
        tiny.fit(tuning, tiny.Data(), tmp_path / str(strength), trainer=tiny.trainer())
        student = copy.deepcopy(network).eval()
        student.fc = teacher.fc
        images = torch.stack([tiny.Images(9, seed=2)[(0, index)]["image"] for index in range(9)])
        with torch.no_grad():
            p, q = teacher(images).softmax(1), student(images).softmax(1)
        return float((p * (p / q).log()).sum(1).mean())

    assert forgotten(20.0) < 0.5 * forgotten(0.0)
