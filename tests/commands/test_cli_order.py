"""Options and other words of a command come in any order."""

from __future__ import annotations

import argparse

import pytest

from graft.commands import cache, probe
from graft.commands.cli import parse


@pytest.mark.parametrize(
    "words",
    [
        ["photos", "data.val_fraction=0.3", "--backbone", "resnet50"],
        ["photos", "--backbone", "resnet50", "data.val_fraction=0.3"],
        ["--backbone", "resnet50", "photos", "data.val_fraction=0.3"],
    ],
)
def test_keys_may_stand_behind_an_option(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    probe.configure(parser)
    args = parse(parser, words)
    assert (args.data, args.backbones) == (["photos", "data.val_fraction=0.3"], ["resnet50"])


def test_a_command_of_several_commands_is_parsed_too() -> None:
    parser = argparse.ArgumentParser()
    cache.configure(parser)
    assert parse(parser, ["list", "--json"]).json
