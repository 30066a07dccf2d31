"""A run whose head is solved: from kept features to the head's weights and what they are worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from graft.config.choices import HeadKind
from graft.config.faults import RunFailed
from graft.config.schema import HeadConfig
from graft.features.dataset import FeatureDataset
from graft.finetune.callbacks import METRICS_FILE, as_csv
from graft.finetune.fit_result import FitResult
from graft.finetune.metrics import Evaluation, Outputs
from graft.finetune.progress import Watch
from graft.heads.choice import Choice, HeadChoice
from graft.heads.layers import LayersChoice
from graft.heads.rows import Head
from graft.models.network import Network, network_for, take_trunk, with_values
from graft.pipeline.candidates import Columns, Crop, Solved, columns_from, measure, record_of_all, table_of
from graft.pipeline.features import Features, compute_other_crop, example_of
from graft.pipeline.folds import cross_validate
from graft.pipeline.hidden import train_hidden
from graft.pipeline.references import references_of
from graft.plan.plan import Plan
from graft.system.files import write_text
from graft.system.machine import denormals_as_zero, full_float32, threads
from graft.system.processes import is_first, say

EVALUATED = 1024  # images at a time
SMALL = 3e7
"""Features of the training images up to which one thread is as fast as several; on a busy machine it is much faster."""
TOLERANCE = 1e-3


def crops_of(plan: Plan, network: Network, features: Features) -> list[Crop]:
    """The ways to crop images that a solved head is chosen among, each with its features; computes those that are not
    there.

    Args:
        features: of the images as the network has them; none, where nothing is kept after all.
    """
    if not plan.solver.solves or not features.stored:
        return []
    cut = plan.cache.outputs[0].cut
    crops = [Crop(network=network, features=features, cut=cut)]
    for fraction in plan.solver.crops[1:]:
        other, computed = compute_other_crop(plan, network, features, fraction)
        crops.append(Crop(network=other, features=computed, cut=cut))
    return crops


def solve_head(
    plan: Plan, crops: Sequence[Crop], folder: Path, donor_head: Head | None = None
) -> tuple[Network, FitResult]:
    """Solves the head, gives the network its weights, and evaluates it. The same bits on one machine.

    Args:
        donor_head: the donor's own last layer for the classes, where it knows them all.

    Returns:
        The network: with head=auto it may be another than the plan's, of the same trunk.

    Raises:
        RunFailed: features that are not finite.
    """
    began, network, crossed = time.perf_counter(), crops[0].network, None
    network.module.requires_grad_(False).eval()
    frozen = plan.training.phases[0].frozen
    watch = Watch(network.module, [frozen], plan.config.freeze_bn, heads=network.stages.heads)
    kind, whole = plan.config.head.kind, crops[0].parts["train"].whole()
    with threads(plan.config.trainer.threads or (1 if len(whole) * whole.width < SMALL else None)):
        measured = measure(plan, crops)
        with denormals_as_zero():
            hidden = train_hidden(plan, crops[0]) if plan.solver.decays else None
    if hidden is not None:
        chosen, layer = hidden, _install_layers(network, hidden)
        measured, columns = [*measured, hidden], hidden.candidate.columns
    else:
        chosen = min(
            (each for each in measured if kind in (each.candidate.kind, HeadKind.auto)),
            key=lambda each: each.compared_by,
        )
        network = chosen.crop.network
        if kind is HeadKind.auto and chosen.candidate.kind is HeadKind.linear:
            network = _with_last_layer(plan, network)
        if plan.config.data.folds and plan.config.data.fold is None:
            crossed = cross_validate(plan, chosen)
            chosen.choice = crossed.choice
        layer, columns = _install(network, chosen)
    crop = chosen.crop
    prove_head(network, crop.prefix, layer, columns)
    seconds = time.perf_counter() - began
    metrics, confusion, outputs = evaluate_head(plan, lambda batch: layer(columns_from(batch, columns)), crop.parts)
    if crossed is not None:  # each image by a head that was solved without it
        metrics |= crossed.metrics
        outputs["val"] = crossed.outputs
        confusion |= {} if crossed.confusion is None else {"val": crossed.confusion}
    trained = {name: metrics.pop(name) for name in [*metrics] if name.startswith("train/")}
    row = {"epoch": 1, "step": 0, **trained, **metrics, "seconds": seconds}
    if is_first():
        write_text(folder / METRICS_FILE, as_csv([{name: row[name] for name in row if not name.startswith("test/")}]))
    references = references_of(plan, crops[0], donor_head)
    say(table_of(plan, measured, chosen, references))
    for remark in remarks_on(plan, chosen.choice, outputs["val"]):
        say(f"head      {remark}")
    return network, FitResult(
        metrics=metrics, trained=trained, confusion=confusion, outputs=outputs, history=[row], seconds=seconds,
        first_step=began, images_per_second=0.0, epochs=0, steps=0, batch_size=plan.config.data.images,
        accumulate=1, steps_skipped=0, best_epoch=None, best_path=None, last_path=None, resumed_from=None,
        frozen_verified=watch.verified(), moved=tuple(sorted(watch.moved)), moved_statistics=(),
        phases=tuple(plan.training.phases), profile={}, precision=plan.precision, prefix={},
        head=record_of_all(plan, measured, chosen, references) | ({} if crossed is None else crossed.choice_record),
        folds=None if crossed is None else crossed.record,
    )  # fmt: skip


def _with_last_layer(plan: Plan, network: Network) -> Network:
    """The network with head=linear and this one's trunk."""
    config = replace(plan.config.network, head=HeadConfig(kind=HeadKind.linear))
    plain = replace(network_for(config, network.classes, device="meta"), preprocess=network.preprocess)
    plain = with_values(plain, config.seed)
    take_trunk(plain, network)
    plain.module.requires_grad_(False).eval()
    return plain


def _install_layers(network: Network, chosen: Solved[LayersChoice]) -> nn.Module:
    """Mutates the network: gives its head the trained values."""
    layers = network.module.get_submodule(network.head["at"])
    layers.load_state_dict(chosen.choice.layers.state_dict(), strict=True)
    return layers


def _install(network: Network, chosen: Solved[HeadChoice]) -> tuple[nn.Linear, Columns]:
    """Mutates the network's last layer: gives it the solved weights. Also the kept features' columns that it takes."""
    layer = network.module.get_submodule(network.stages.head)
    assert isinstance(layer, nn.Linear), "the plan solves linear heads alone"
    is_wide, columns = network.head["kind"] == HeadKind.stages.value, chosen.candidate.columns
    with torch.no_grad():
        if is_wide and columns is not None:
            layer.weight.zero_()
            layer.weight[:, columns] = chosen.choice.head.weight_KD.to(layer.weight)
        else:
            layer.weight.copy_(chosen.choice.head.weight_KD)
        if "bias" in layer.state_dict():
            layer.bias.copy_(chosen.choice.head.bias_K)
    return layer, None if is_wide else columns


def prove_head(network: Network, prefix: nn.Module, layer: nn.Module, columns: Columns) -> None:
    """What is exported computes from images what was solved on features."""
    images = example_of(network)
    with torch.no_grad(), full_float32("cpu"):
        expected, received = network.module(images), layer(columns_from(prefix(images), columns))
    if not torch.allclose(expected, received, atol=TOLERANCE, rtol=TOLERANCE):
        off = float((expected - received).abs().max())
        raise RunFailed(f"the network's answers differ from those of its solved head by {off:.2g}; try head.solver=sgd")


def evaluate_head(
    plan: Plan, answer: Callable[[Tensor], Tensor], parts: Mapping[str, FeatureDataset]
) -> tuple[dict[str, float], dict[str, list[list[int]]], dict[str, Outputs]]:
    """In float32, by the layer that is exported."""
    metrics: dict[str, float] = {}
    confusion: dict[str, list[list[int]]] = {}
    outputs: dict[str, Outputs] = {}
    for name, part in parts.items():
        evaluation = Evaluation(name, plan.task)
        evaluation.reset("cpu")
        evaluation.keeps_outputs = True
        for start in range(0, len(part), EVALUATED):
            batch = part.__getitems__([(0, row) for row in range(start, min(start + EVALUATED, len(part)))])
            with torch.no_grad(), full_float32("cpu"):
                logits = answer(batch["features"]).float()
                loss = plan.task.loss(logits, batch["target"])
            evaluation.update(loss, logits, plan.task.label(batch), batch["index"])
        metrics.update(evaluation.figures(evaluation.sums))
        if name != "train":
            outputs[name] = evaluation.outputs()
            if (counts := evaluation.confusion()) is not None:
                confusion[name] = counts
    return metrics, confusion, outputs


def remarks_on(plan: Plan, choice: Choice, val: Outputs) -> list[str]:
    """What a person should know of the head, and what to do."""
    remarks: list[str] = []
    if plan.solver.decays:  # below the weakest, decay hardly does anything
        if choice.at_end and choice.chosen == 0:
            stronger = [3 * choice.penalty, *plan.solver.decays]
            remarks.append(
                f"the strongest weight decay of all was the best ({choice.penalty:g}): a stronger one may be better"
                f" still; try 'head.decays=[{', '.join(f'{decay:g}' for decay in stronger)}]'"
            )
    elif choice.at_end and choice.chosen == 0:
        remarks.append(
            f"the strongest penalty of all was the best ({choice.penalty:g}): these features hardly tell the answers"
            " apart; try another donor, or fine-tuning (freeze=none)"
        )
    elif choice.at_end:
        remarks.append(
            f"the weakest penalty of all was the best ({choice.penalty:g}): a weaker one may be better still; try"
            " head.solver=sgd, or experiment=last_stage"
        )
    if val.label.ndim == 1 and not val.label.is_floating_point():
        answered = val.answers.argmax(1).unique()
        if len(answered) == 1 and len(val.label.unique()) > 1:
            name = plan.table.classes[int(answered[0])]
            remarks.append(f"it answers {name} for every validation image; try loss.class_weights=balanced")
    if choice.folds:
        few = "an image" if len(val.label) == 1 else f"{len(val.label)} images"
        remarks.append(
            f"chosen by {choice.folds} folds of the training images, as the validation part is {few}: its figures are"
            " uncertain too; try more validation images, such as data.val_fraction=0.3 where graft carves the parts"
        )
    if choice.refit:
        remarks.append("figures of the validation part are of images that the head was solved on (head.refit)")
    return remarks
