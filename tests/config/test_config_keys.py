"""The schema as its users read it."""

from __future__ import annotations

from typing import Any

import pytest

from graft.config.examples import EXAMPLES, example
from graft.config.help import MAIN_KEYS
from graft.config.keys import ALIASES, in_words, is_known, nearest_keys, schema_keys
from graft.config.limits import LIMITS
from graft.config.rules import MATTERS, REQUIRES, RULES
from graft.config.schema import Mode


@pytest.mark.parametrize("name", list(schema_keys()))
def test_each_field_has_a_docstring(name: str) -> None:
    assert len(schema_keys()[name].doc) > 5


def test_every_table_speaks_of_keys_that_exist() -> None:
    spoken_of = {*EXAMPLES, *MAIN_KEYS, *ALIASES.values(), *LIMITS}
    spoken_of |= {key for rule in REQUIRES for key in (rule.key, rule.option)}
    spoken_of |= {key for rule in MATTERS for key in (*rule.keys, rule.option)}
    spoken_of |= {key for keys, _ in RULES for key in keys}
    assert spoken_of - set(schema_keys()) == set()


@pytest.mark.parametrize("key", [*LIMITS, *(rule.key for rule in REQUIRES)])
def test_each_key_that_can_be_wrong_has_something_to_type_instead(key: str) -> None:
    assert f"{key}=" in example(key) or LIMITS[key].choices


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "a whole number"),
        (float | None, "a number or null"),
        (list[list[str]], "a list of lists of texts"),
        (dict[str, float], "a mapping of texts to numbers"),
        (dict[str, Any], "a mapping of texts to values"),
        (Mode, "one of train, plan"),
    ],
)
def test_types_in_words(annotation: Any, words: str) -> None:
    assert in_words(annotation) == words


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optimizer.lrr", "optimizer.lr"),
        ("optimzer.lr", "optimizer.lr"),
        ("lr", "optimizer.lr"),
        ("learning_rate", "optimizer.lr"),
        ("batch-size", "data.batch_size"),
        ("data/root", "data.root"),
        ("data.rooot", "data.root"),
        ("epochs", "trainer.max_epochs"),
        ("trainer.epoch", "trainer.max_epochs"),
        ("model", "backbone"),
        ("frezee", "freeze"),
    ],
)
def test_the_nearest_key_is_the_one_meant(typed: str, meant: str) -> None:
    assert nearest_keys(typed)[0] == meant


def test_nothing_is_suggested_for_what_resembles_nothing() -> None:
    assert nearest_keys("zq") == []


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("optimizer.lr", True),
        ("optimizer", True),
        ("optimizer.lr_scale.layer4", True),
        ("donor.adapt.conv1.weight", True),
        ("optimizer.lr.x", False),
        ("optimizer.nothing", False),
        ("nothing", False),
    ],
)
def test_entries_are_known_below_open_keys_alone(name: str, known: bool) -> None:
    assert is_known(name) is known
