"""What a head is compared with: the nearest training images, and the donor's own classes where they fit."""

from __future__ import annotations

from graft.config.choices import HeadKind, TaskKind
from graft.config.figures import headline
from graft.features.dataset import FeatureRows
from graft.heads.neighbours import NEIGHBOURS, vote
from graft.heads.rows import Head, logits_of
from graft.models.stage_head import columns_of
from graft.pipeline.candidates import Crop, Reference, figures_of
from graft.plan.features import MEASURED
from graft.plan.plan import Plan
from graft.transfer.chosen import rows_of_classes
from graft.transfer.donor import Donor


def donor_head(plan: Plan, donor: Donor) -> Head | None:
    """The donor's own last layer for the run's classes; None if it does not know them all."""
    if not plan.solver.solves or plan.task.kind is not TaskKind.single_label:
        return None
    rows = rows_of_classes(plan.config.network, plan.ledger, donor, plan.table.classes)
    return None if rows is None else Head(*(values.double() for values in rows))


def references_of(plan: Plan, crop: Crop, donor_head: Head | None) -> list[Reference]:
    """What the validation images' answers would be without a head of their own."""
    references = [_donor_classes(plan, crop, donor_head), _nearest(plan, crop)]
    return [reference for reference in references if reference is not None]


def _donor_classes(plan: Plan, crop: Crop, donor_head: Head | None) -> Reference | None:
    val = _inputs_of_last_layer(crop, "val")
    if donor_head is None or val.shape[1] != donor_head.weight_KD.shape[1]:
        return None
    figures = figures_of(plan, logits_of(donor_head, val).float(), crop.parts["val"])
    return Reference(
        name="the donor's own classes", key="donor_classes", figure=figures[headline(plan.task.kind).name],
        loss=figures["loss"], words="donor.class_map=names",
    )  # fmt: skip


def _nearest(plan: Plan, crop: Crop) -> Reference | None:
    """The fraction of the validation images whose class most of the nearest training images have."""
    train, val = crop.parts["train"], crop.parts["val"]
    labels = train.columns["label"]
    if labels.ndim != 1 or labels.is_floating_point() or len(train) * train.whole().width > MEASURED:
        return None
    votes_MK = vote(
        _inputs_of_last_layer(crop, "train"), labels.repeat(train.views), _inputs_of_last_layer(crop, "val"),
        len(plan.table.classes),
    )  # fmt: skip
    figure = float((votes_MK.argmax(1) == val.columns["label"]).double().mean())
    return Reference(name=f"{NEIGHBOURS} nearest training images", key="neighbours", figure=figure)


def _inputs_of_last_layer(crop: Crop, part: str) -> FeatureRows:
    rows, head = crop.parts[part].whole(), crop.source.head
    return rows.only(columns_of(head)["last"]) if head["kind"] == HeadKind.stages.value else rows
