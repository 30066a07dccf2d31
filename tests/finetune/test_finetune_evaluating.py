"""Figures are of the network in float32, whatever precision training is in."""

import pytest
import torch

from graft.config.schema import MethodConfig, TrainerConfig
from graft.finetune.hardware import EXPORTED, FSDP, precisions, strategy


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("part", ["val", "test"])
def test_an_evaluation_under_autocast_is_in_float32(tiny, dtype, part):
    tuning = tiny.tuning().eval()
    images = tiny.Data().parts[part]
    batch = torch.utils.data.default_collate([images[0, index] for index in range(len(images))])
    with torch.no_grad():
        expected = tuning.network(images.image).softmax(1)
        evaluation = tuning.evaluation(part)
        evaluation.keeps_outputs = True
        evaluation.reset("cpu")
        with torch.autocast("cpu", dtype=dtype):
            assert not torch.equal(tuning.network(images.image).softmax(1), expected)
            (tuning.validation_step if part == "val" else tuning.test_step)(batch, 0)
    torch.testing.assert_close(evaluation.outputs().answers, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", ["network", "mean"])
def test_the_row_of_the_best_epoch_and_the_final_figures_are_of_one_function(tiny, tmp_path, method):
    """Both of the network that checkpoints/best.ckpt holds, in float32."""
    chosen = MethodConfig(ema=0.5) if method == "mean" else MethodConfig()
    tuning = tiny.tuning(method=chosen, precision="bf16-mixed", engine=True, freeze="layer1")
    trainer = tiny.trainer(max_epochs=3, precision="bf16-mixed")
    result = tiny.fit(tuning, tiny.Data(), tmp_path, trainer=trainer)
    assert result.precision == {"train": "bf16-mixed", "evaluation": EXPORTED}
    row = min(result.history, key=lambda row: row["val/loss"])
    told = {name: row[name] for name in result.metrics if name.startswith("val/")}
    assert told == pytest.approx({name: result.metrics[name] for name in told}, abs=1e-5)
    images = tiny.Data().parts["val"]
    with torch.no_grad():
        expected = tuning.network.eval()(images.image).softmax(1)
    torch.testing.assert_close(result.outputs["val"].answers, expected, atol=1e-5, rtol=1e-5)


def test_weights_that_are_shared_out_are_put_together_in_float32():
    config = strategy(TrainerConfig(strategy=FSDP, devices=2, precision="bf16-mixed"), 1).mixed_precision_config
    assert {config.param_dtype, config.buffer_dtype, config.reduce_dtype} == {torch.float32}


def test_the_precision_of_a_gpu_that_is_not_here_is_its_own_affair(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precisions(TrainerConfig(accelerator="gpu")) == {"train": "auto", "evaluation": EXPORTED}
    assert precisions(TrainerConfig(accelerator="auto")) == {"train": "32-true", "evaluation": EXPORTED}
    assert precisions(TrainerConfig(precision="16-mixed"))["train"] == "16-mixed"
