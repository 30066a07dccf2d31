"""graft reads Hydra's flags as Hydra does: as its documentation lists them, and as the installed release has them."""

from __future__ import annotations

import argparse

import pytest
from hydra._internal.utils import get_args_parser

from graft.config.hydra_flags import flags_parser


def shape(parser: argparse.ArgumentParser) -> dict[str, tuple[tuple[str, ...], bool, object]]:
    """Every flag's spellings, whether it takes a value, and which."""
    return {
        action.dest: (
            tuple(sorted(action.option_strings)),
            action.nargs == 0,
            action.choices and sorted(action.choices),
        )
        for action in parser._actions
    }


def test_the_flags_are_those_of_the_installed_hydra():
    assert shape(flags_parser()) == shape(get_args_parser())


@pytest.mark.parametrize(
    "words",
    [
        ["seed=1", "trainer.max_epochs=2"],
        ["-m", "seed=1,2"],
        ["--multirun", "--config-dir", "mine", "seed=1"],
        ["-cn", "other", "-cp", "there"],
        ["--cfg", "job", "--resolve", "-p", "data"],
        ["--info"],
        ["-i", "plugins"],
        ["--config-dir=mine", "a=1", "--foreign", "b=2", "-x"],
    ],
)
def test_words_are_taken_alike(words: list[str]):
    (own, rest), (hydras, others) = (parser.parse_known_args(words) for parser in (flags_parser(), get_args_parser()))
    assert vars(own) == {**vars(hydras), "version": False}
    assert rest == others
