"""Out of memory, a run goes on with smaller batches and the same steps."""

import pytest
import torch
from torch import nn

from graft.config.faults import RunFailed
from graft.finetune.shrink import resize_progress, shrink, with_smaller_batches


class Small(nn.Module):
    """A memory that holds so many images at once, from the so-many-th forward in training on."""

    def __init__(self, network, images, after=0):
        super().__init__()
        self.network, self.images, self.after = network, images, after

    def forward(self, image):
        self.after -= self.training
        if self.training and self.after < 0 and len(image) > self.images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return self.network(image)


def still(tiny):
    """Without batch statistics and dropout, which go by the batch; under the names that tiny's stages have."""
    network = tiny.network()
    for part in (network, network.layer1, network.layer2, network.layer3):
        name = "bn1" if part is network else "bn"
        setattr(part, name, nn.GroupNorm(2, 4))
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def run(tiny, folder, images=None, after=0, batch_size=4, accumulate=1, every=2, train=24, **changes):
    network = still(tiny)
    tuning = tiny.tuning(network, freeze="layer1")
    if images:
        tuning.route._whole = Small(network, images, after)
    data = tiny.Data(batch_size=batch_size, train=train)
    trainer = tiny.trainer(accumulate=accumulate, **changes)
    result = tiny.fit(tuning, data, folder, trainer=trainer, checkpoint=tiny.checkpoint(every_n_steps=every))
    return result, torch.load(result.last_path, weights_only=True)["state_dict"]


def same(one, other):
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-5, rtol=1e-4)


SLOW = pytest.mark.slow


# Nothing saved; amid the first epoch; behind a checkpoint; in the second epoch.
@pytest.mark.parametrize("after", [pytest.param(0, marks=SLOW), 1, 3, pytest.param(8, marks=SLOW)])
def test_out_of_memory_halves_the_batch_and_goes_on_with_the_same_steps(tiny, tmp_path, capsys, after):
    whole, expected = run(tiny, tmp_path / "whole")
    result, weights = run(tiny, tmp_path / "small", images=2, after=after)
    assert (result.batch_size, result.accumulate) == (2, 2)
    assert (whole.batch_size, whole.accumulate) == (4, 1)
    assert result.steps == whole.steps == 12
    same(weights, expected)
    assert [row["step"] for row in result.history] == [6, 12]
    assert "out of memory with batches of 4 (CUDA out of memory" in capsys.readouterr().err


@pytest.mark.slow
def test_it_halves_until_one_image_is_too_many(tiny, tmp_path):
    result, _ = run(tiny, tmp_path / "one", images=1)
    assert (result.batch_size, result.accumulate) == (1, 4)
    with pytest.raises(RunFailed, match="out of memory with a single image a batch"):
        run(tiny, tmp_path / "none", images=-1)


def test_a_resume_with_smaller_batches_takes_the_same_steps(tiny, tmp_path, monkeypatch):
    _, expected = run(tiny, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("graft.finetune.shrink.shrink", lambda *now, **how: shrink(1, 1))
        with pytest.raises(RunFailed, match="single image"):
            run(tiny, tmp_path / "cut", images=2, after=3)
    result, weights = run(tiny, tmp_path / "cut", batch_size=1, accumulate=4)
    assert result.resumed_from is not None
    same(weights, expected)


@pytest.mark.parametrize(("batch_size", "expected"), [(32, (16, 2)), (9, (3, 3)), (7, (1, 7))])
def test_a_smaller_batch_makes_the_same_steps(batch_size, expected):
    assert shrink(batch_size, 1) == expected


def test_a_batch_that_no_process_can_train_by_is_passed_over():
    assert shrink(12, 1, can_train_by=lambda size: size in (12, 3)) == (3, 4)
    with pytest.raises(RunFailed, match="out of memory with 4 images a batch, and no smaller one can train"):
        shrink(4, 2, can_train_by=lambda size: size >= 4)


def test_progress_is_counted_anew():
    def progress(ready, completed):
        return {"ready": ready, "started": ready, "processed": ready, "completed": completed}

    loops = {
        "epoch_loop.batch_progress": {
            "total": progress(7 + 3, 7 + 2),
            "current": progress(3, 2),
            "is_last_batch": False,
        },
        "state_dict": {"combined_loader": [{"epoch": 1, "batch": 3}]},
    }
    resize_progress({"loops": {"fit_loop": loops}}, batches=(7, 13), accumulate=(1, 2))
    assert loops["epoch_loop.batch_progress"]["total"] == progress(13 + 6, 13 + 5)
    assert loops["epoch_loop.batch_progress"]["current"] == progress(6, 5)
    assert loops["state_dict"]["combined_loader"] == [{"epoch": 1, "batch": 6}]


def test_several_processes_are_told_what_to_type(tiny):
    data, tuning = tiny.Data(batch_size=8), tiny.tuning()
    plan = tiny.plan_for(tuning, data, tiny.trainer(devices=2))
    with pytest.raises(RunFailed, match=r"try data\.batch_size=4 trainer\.accumulate=2 in the same folder"):
        with_smaller_batches(plan, data, "CUDA out of memory", print)
    assert data.batch_size == 8
