"""The plan as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from graft.config.choices import CacheKind, DonorKind, Resize
from graft.finetune.decay import CONFIG, LIBRARY, TABLE
from graft.finetune.groups import Group
from graft.page.terminal import aligned
from graft.page.words import for_each_purpose, moment, precision_name
from graft.plan.checks import SHOWN_NAMES
from graft.plan.plan import Plan

NAMED = (TABLE, LIBRARY, CONFIG)  # reasons whose parameters the plan names
LEAST_CROP = 0.005  # share of the pixels, below which a crop is not worth a line
UNITS = ("", "k", "M", "G", "T")


def describe(plan: Plan) -> str:
    """Several short tables: the data, the transfer, stages, phases with their learning rates, memory."""
    trained = _solved(plan) if plan.solver.solves else _phases(plan)
    parts = [_data(plan), _donor(plan), _stages(plan), trained, _methods(plan), _cost(plan)]
    return "\n\n".join(part for part in parts if part)


def count(number: float) -> str:
    """1280 as 1.28k, 3371024 as 3.37M."""
    for unit in UNITS:
        if number < 1000 or unit == UNITS[-1]:
            return f"{number:.3g}{unit}" if unit else f"{number:g}"
        number /= 1000
    raise AssertionError


def size(number: float) -> str:
    """A number of bytes: 1280 as 1.28kB."""
    return f"{count(number)}B"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first left-aligned, the others right-aligned."""
    return "\n".join(aligned(rows, right=range(1, len(rows[0]))))


def _data(plan: Plan) -> str:
    table, config = plan.table, plan.config
    parts = ", ".join(f"{len(table.part(name)):,} {name}" for name in ("train", "val", "test") if table.part(name))
    preprocess = plan.network.preprocess
    lines = [
        f"data      {config.data.kind.value}: {parts} images; {plan.task.described()}",
        f"images    {preprocess.image_size} pixels, {preprocess.interpolation}, mean {_numbers(preprocess.mean)},"
        f" std {_numbers(preprocess.std)}; augment {config.augment.name}",
    ]
    if preprocess.resize != Resize.crop.value:
        lines.append(f"          data.resize={preprocess.resize}: the whole of each image")
    elif plan.cropped is not None and plan.cropped >= LEAST_CROP:
        lines.append(
            f"          the centre crop leaves out {plan.cropped:.0%} of the pixels; data.resize=squash, letterbox or"
            " pad keeps all"
        )
    lines += [f"corrected {line}" for line in table.corrections.described()]
    lines += [f"copies    {line}" for line in plan.copies.described(config.data.accept)]
    lines += [f"groups    {line}" for line in plan.groups.described(config.data.accept)]
    if config.data.folds:
        every = "every fold in turn is val" if config.data.fold is None else f"fold {config.data.fold} is val"
        lines.append(f"folds     {config.data.folds}, by content: {every}")
    lines += [f"left out  {entry['path']}: {entry['reason']}" for entry in table.skipped]
    return "\n".join(lines)


def _numbers(values: Sequence[float]) -> str:
    distinct = values[:1] if len(set(values)) == 1 else values
    return " ".join(f"{value:.3g}" for value in distinct)


def _donor(plan: Plan) -> str:
    remarks = [f"          {remark}" for remark in plan.remarks]
    if plan.config.donor.kind is DonorKind.none:
        return "\n".join(["donor     none", *remarks])
    return "\n".join([f"donor     {plan.ledger.headline}", *remarks])


def _stages(plan: Plan) -> str:
    rows = [("stage", "parameters", "buffers", "at the start")]
    rows += [
        (row.name, f"{row.parameters:,}", f"{row.buffers:,}", "frozen" if row.frozen else "trains")
        for row in plan.stages
    ]
    frozen, most = plan.total - plan.trainable, " at most" if plan.training.undecided else ""
    return (
        f"network   {plan.config.backbone.name}, head {plan.config.head.kind.value}: {plan.total:,} parameters,"
        f" {plan.trainable:,} trainable{most}, {frozen:,} frozen for good\n{columns(rows)}"
    )


def _solved(plan: Plan) -> str:
    how = "hidden layers trained on kept features" if plan.solver.decays else "solved"
    lines = [f"head      {how}: {plan.solver.reason}"]
    if plan.solver.crops:
        fractions = " and ".join(f"data.crop_fraction={crop:g}" for crop in plan.solver.crops)
        lines.append(f"crop      {fractions} are compared, a pass over the images each; give one to have it alone")
    if plan.solver.without_effect:
        words = ", ".join(plan.solver.without_effect)
        lines.append(f"no effect {words}: a solved head takes no steps; head.solver=sgd trains it by steps")
    return "\n".join(lines)


def _early(plan: Plan) -> str:
    patience = plan.config.trainer.patience
    if patience is None:
        return ""
    epochs = f"{patience} epoch{'s' if patience > 1 else ''}"
    return f", fewer where {plan.config.checkpoint.monitor} has not improved for {epochs}"


def _phases(plan: Plan) -> str:
    steps = f"{plan.config.trainer.epochs} epochs of {plan.training.steps_per_epoch} steps{_early(plan)}"
    heads = [f"lr {moment(phase.start_epoch)}" for phase in plan.training.phases]
    rows = [("group", "parameters", "decay", *heads), *(_group_row(plan, group) for group in plan.training.groups)]
    rate = "rate      optimizer.lr is to be found by a range test; below, multiples of it\n" if plan.finds_rate else ""
    return f"{_start(plan)}frozen    over {steps}\n{_timeline(plan)}\n\n{rate}{columns(rows)}{_undecayed(plan)}"


def _start(plan: Plan) -> str:
    """How the head is initialised, if head.start was set."""
    if plan.start.solved:
        return "head      begins solved on the donor's features; its weights come back if training ends below it\n"
    return f"head      begins at random: {plan.start.reason}\n" if plan.start.reason else ""


def _undecayed(plan: Plan) -> str:
    """Parameters without weight decay, by reason; with their names if the reason is not the kind of parameter."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in plan.undecayed.items():
        by_reason.setdefault(reason, []).append(name)
    parts = [f"{len(names)} {reason}{_first(names) if reason in NAMED else ''}" for reason, names in by_reason.items()]
    return f"\nno decay  {'; '.join(parts)}" if parts else ""


def _first(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:SHOWN_NAMES])}{', …' if len(names) > SHOWN_NAMES else ''})"


def _timeline(plan: Plan) -> str:
    lines = [f"  {moment(phase.start_epoch)}: {phase.frozen}" + _times(phase.factor) for phase in plan.training.phases]
    schedule = plan.training.schedule
    if schedule.plateau and plan.training.undecided:
        lines.append(f"  then {schedule.plateau}, one after the other:")
        lines += [
            f"    {state}" + _times(schedule.factor_of(place))
            for place, state in enumerate(plan.training.undecided, len(plan.training.phases))
        ]
    if warmup := plan.training.rates.warmup:
        lines.append(f"  what thaws comes to its rate in {warmup} steps")
    return "\n".join(lines)


def _times(factor: float) -> str:
    return f", every rate ×{factor:g}" if factor != 1 else ""


def _group_row(plan: Plan, group: Group) -> tuple[str, ...]:
    later = f"decided by {plan.training.schedule.plateau.monitor}" if plan.training.schedule.plateau else "frozen"
    rates = [later if rate is None else _rates(*rate) for rate in plan.rates(group)]
    return (group.name, f"{group.parameters:,}", f"{group.weight_decay:g}", *rates)


def _rates(first: float, highest: float, last: float) -> str:
    """The first and the last learning rate, with the highest one between them if it is neither."""
    rates = [first, highest, last] if highest > max(first, last) else [first, last]
    return " → ".join(f"{rate:.2g}" for rate in rates) if len(set(rates)) > 1 else f"{first:.2g}"


def _methods(plan: Plan) -> str:
    return "\n".join(("methods   " if place == 0 else " " * 10) + line for place, line in enumerate(plan.methods))


def _cost(plan: Plan) -> str:
    memory, cache = plan.memory, plan.cache
    computed = f" ({for_each_purpose(cache.computed)})" if cache.computed else ""
    line = f"{cache.kind.value}: {cache.reason}{computed}" + (f", {size(cache.size)} on disk" if cache.size else "")
    beside = f", methods {size(memory.methods)}" if memory.methods else ""
    if plan.solver.solves:
        return f"cache     {line}\ntrainer   {plan.config.trainer.accelerator}; evaluation in float32, as exported"
    cut = " (less with the cache)" if cache.kind is CacheKind.features else ""
    return (
        f"memory    about {size(memory.total)} a step: weights {size(memory.weights)},"
        f" gradients {size(memory.gradients)}, optimizer {size(memory.optimizer)},"
        f" activations {size(memory.activations)}{cut}{beside}\n"
        f"cache     {line}\n{_prefix(plan)}"
        f"trainer   {_trainer(plan)}"
    )


def _prefix(plan: Plan) -> str:
    """How a frozen prefix runs if images pass through it during training."""
    cache, epochs = plan.cache, plan.config.trainer.epochs
    served = sum(output.epochs[1] - output.epochs[0] if output.epochs else epochs for output in cache.outputs)
    return f"prefix    frozen stages run on images {cache.prefix}\n" if cache.prefix and served < epochs else ""


def _trainer(plan: Plan) -> str:
    trainer = plan.config.trainer
    train, evaluation = precisions_in_words(plan)
    return f"{trainer.accelerator}, {trainer.epochs} epochs in {train}; {evaluation}"


def precisions_in_words(plan: Plan) -> tuple[str, str]:
    """The precision of training, and of evaluation, which differs if a faster step was chosen."""
    train, evaluation = (precision_name(plan.precision[purpose]) for purpose in ("train", "evaluation"))
    return train, f"evaluation in {evaluation}, as exported"
