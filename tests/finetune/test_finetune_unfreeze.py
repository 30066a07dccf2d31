import pytest

from graft.config.faults import InputError
from graft.config.schema import UnfreezeKind

STAGES_IN = 10  # steps an epoch
EPOCHS = 6


def timeline(schedule, epochs=EPOCHS):
    """[(start step, start epoch, frozen stages)], as the plan shows it."""
    phases = schedule.phases(STAGES_IN, STAGES_IN * epochs)
    assert [phase.stop_step for phase in phases] == [phase.start_step for phase in phases[1:]] + [STAGES_IN * epochs]
    return [(phase.start_step, phase.start_epoch, "+".join(phase.frozen.stages) or "none") for phase in phases]


ALL = "stem+layer1+layer2+layer3"

TIMELINES = {
    "never": ("layer1-2", UnfreezeKind.never, {}, [(0, 0, "stem+layer1+layer2")]),
    "never, nothing frozen": ("none", UnfreezeKind.never, {}, [(0, 0, "none")]),
    "gradual, an epoch each": (
        "backbone",
        UnfreezeKind.gradual,
        {},
        [(0, 0, ALL), (10, 1, "stem+layer1+layer2"), (20, 2, "stem+layer1"), (30, 3, "stem"), (40, 4, "none")],
    ),
    "gradual, by steps": (
        "layer1-2",
        UnfreezeKind.gradual,
        {"start": "5 steps", "every": "15 steps"},
        [(0, 0, "stem+layer1+layer2"), (5, 0.5, "stem+layer1"), (20, 2, "stem"), (35, 3.5, "none")],
    ),
    "gradual, by share": (
        "backbone",
        UnfreezeKind.gradual,
        {"start": "50%", "every": "25%"},
        [(0, 0, ALL), (30, 3, "stem+layer1+layer2"), (45, 4.5, "stem+layer1")],
    ),
    "gradual, part of a stage": (
        ["layer1.conv", "layer2"],
        UnfreezeKind.gradual,
        {"every": "2 epochs"},
        [(0, 0, "layer2"), (10, 1, "none"), (30, 3, "none")],
    ),
    "lp_ft": ("backbone", UnfreezeKind.lp_ft, {"start": "2 epochs"}, [(0, 0, ALL), (20, 2, "none")]),
    "lp_ft, by share": ("backbone", UnfreezeKind.lp_ft, {"start": 0.25}, [(0, 0, ALL), (15, 1.5, "none")]),
    "at": (
        "backbone",
        UnfreezeKind.at,
        {"table": {"1 epoch": "layer1-2", "25 steps": "none", "50%": "layer1-1"}},
        [(0, 0, ALL), (10, 1, "stem+layer1+layer2"), (25, 2.5, "none"), (30, 3, "stem+layer1")],
    ),
    "at, written out of order": (
        "backbone",
        UnfreezeKind.at,
        {"table": {"30 steps": "none", "10 steps": ["layer1"]}},
        [(0, 0, ALL), (10, 1, "layer1"), (30, 3, "none")],
    ),
    "at, from the start": ("backbone", UnfreezeKind.at, {"table": {"0 steps": "stem"}}, [(0, 0, "stem")]),
    "at, with no change": (
        "stem",
        UnfreezeKind.at,
        {"table": {"10 steps": "stem", "20 steps": "none"}},
        [(0, 0, "stem"), (20, 2, "none")],
    ),
    "at, thawed and frozen again": (
        "layer1-2",
        UnfreezeKind.at,
        {"table": {"1 epoch": "none", "50%": "backbone", "45 steps": "stem"}},
        [(0, 0, "stem+layer1+layer2"), (10, 1, "none"), (30, 3, ALL), (45, 4.5, "stem")],
    ),
    "plateau, nothing decided yet": ("layer1-2", UnfreezeKind.plateau, {}, [(0, 0, "stem+layer1+layer2")]),
    "at, after the end": ("stem", UnfreezeKind.at, {"table": {"6 epochs": "none"}}, [(0, 0, "stem")]),
}


@pytest.mark.parametrize("case", TIMELINES, ids=list(TIMELINES))
def test_timeline(tiny, case):
    freeze, kind, options, expected = TIMELINES[case]
    schedule = tiny.schedule(tiny.network(), freeze, kind, **options)
    assert timeline(schedule) == expected


@pytest.mark.parametrize("case", TIMELINES, ids=list(TIMELINES))
def test_the_state_at_every_step_is_its_phases(tiny, case):
    """Whoever asks at a step, in whatever order, gets what the phases say: there is no event to miss."""
    freeze, kind, options, _ = TIMELINES[case]
    schedule = tiny.schedule(tiny.network(), freeze, kind, **options)
    total = STAGES_IN * EPOCHS
    phases = schedule.phases(STAGES_IN, total)
    for step in reversed(range(total)):
        phase = next(phase for phase in phases if phase.start_step <= step < phase.stop_step)
        assert schedule.frozen_at(step, STAGES_IN, total).names == phase.frozen.names


def test_what_no_phase_trains(tiny):
    module = tiny.network()
    schedule = tiny.schedule(module, "backbone", UnfreezeKind.gradual)
    never = schedule.never_trained(STAGES_IN, STAGES_IN * 3)
    assert {name.split(".")[0] for name in never} == {"conv1", "bn1", "layer1"}
    assert schedule.never_trained(STAGES_IN, STAGES_IN * 6) == frozenset()
    refrozen = tiny.schedule(module, "layer1-3", UnfreezeKind.at, table={"1 epoch": "none", "2 epochs": "stem"})
    assert refrozen.never_trained(STAGES_IN, STAGES_IN * 6) == frozenset()


def test_a_moment_that_never_comes_is_remarked(tiny):
    schedule = tiny.schedule(tiny.network(), "backbone", UnfreezeKind.gradual)
    assert schedule.unreached(STAGES_IN, STAGES_IN * 6) == []
    remarks = schedule.unreached(STAGES_IN, STAGES_IN * 3)
    assert len(remarks) == 2
    assert remarks[0].startswith("unfreeze: 3 epochs is step 30 of 30")


@pytest.mark.parametrize(
    ("freeze", "kind", "options", "message"),
    [
        ("none", UnfreezeKind.gradual, {}, r"something frozen to thaw.*unfreeze=gradual with freeze=none"),
        ("none", UnfreezeKind.lp_ft, {}, r"something frozen to thaw"),
        ("layer1-2", UnfreezeKind.lp_ft, {}, r"expected backbone.*received layer1-2"),
        ("backbone", UnfreezeKind.gradual, {"every": 0}, r"unfreeze\.every: expected more than nothing"),
        ("backbone", UnfreezeKind.gradual, {"every": "soon"}, r"unfreeze\.every: expected \"2 epochs\""),
        ("backbone", UnfreezeKind.gradual, {"start": "10%"}, r"unfreeze\.start: expected the unit of unfreeze\.every"),
        ("none", UnfreezeKind.plateau, {}, r"something frozen to thaw.*unfreeze=plateau"),
        (
            "backbone",
            UnfreezeKind.lp_ft,
            {"phase_factors": [1.0, 0.1, 0.01]},
            r"unfreeze\.phase_factors: expected at most 2 factors.*received 3; try \[1,0\.1\]",
        ),
        ("backbone", UnfreezeKind.gradual, {"warmup": "a while"}, r"unfreeze\.warmup: expected \"2 epochs\""),
        ("backbone", UnfreezeKind.at, {}, r"unfreeze\.table: expected moments"),
        ("backbone", UnfreezeKind.at, {"table": {"1 epoch": "layer9"}}, r"unfreeze\.table\[1 epoch\]: .*'layer9'"),
        ("backbone", UnfreezeKind.at, {"table": {"later": "none"}}, r"unfreeze\.table: expected \"2 epochs\""),
        ("backbone+head", UnfreezeKind.never, {}, r"something left to train"),
        ("none", UnfreezeKind.at, {"table": {"1 epoch": "backbone+head"}}, r"every parameter from 1 epoch on"),
    ],
)
def test_what_cannot_be_scheduled(tiny, freeze, kind, options, message):
    with pytest.raises(InputError, match=message):
        tiny.schedule(tiny.network(), freeze, kind, **options)
