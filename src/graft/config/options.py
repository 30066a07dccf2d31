"""Command options that are keys of the config: `graft transfer --skip 'fc.*'` is donor.skip=[fc.*], checks included."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError, safe_load

from graft.config.compose import parse, schema_node
from graft.config.faults import InputError
from graft.config.keys import schema_keys
from graft.config.schema import Config

# What every config must say and a command that does not train has no use for.
_UNTRAINED: dict[str, Any] = {
    "freeze": "none",
    "unfreeze": {"kind": "never"},
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "scheduler": {"kind": "constant"},
    "trainer": {"max_epochs": 1},
    "data": {"kind": "solar_cells"},
    "augment": {"name": "none"},
    "cache": {"kind": "none"},
    "head": {"kind": "none"},
    "backbone": {"library": "timm", "name": "none"},
}


@dataclass(frozen=True, slots=True)
class Option:
    """A flag and the key that it sets."""

    flag: str
    key: str
    form: str = "VALUE"

    @property
    def place(self) -> str:
        """The attribute that argparse stores it under."""
        return self.flag.lstrip("-").replace("-", "_")


def add_options(parser: argparse.ArgumentParser, options: Sequence[Option]) -> None:
    for option in options:
        key = schema_keys()[option.key]
        described = re.sub(r"\s+", " ", f"{key.doc} ({option.key})").replace("%", "%%")
        if key.expected == "true or false":
            parser.add_argument(option.flag, action="store_true", help=described)
        elif key.is_open or key.is_group or key.is_list:
            parser.add_argument(option.flag, action="append", default=[], metavar=option.form, help=described)
        else:
            parser.add_argument(option.flag, metavar=option.form, help=described)


def config_of(args: argparse.Namespace, options: Sequence[Option], further: Mapping[str, Any]) -> Config:
    """The typed config of what was given, by the checks that `python train.py` makes.

    Args:
        further: values of other keys, as nested mappings.

    Raises:
        InputError: every fault, under the options' own names.
    """
    cfg = OmegaConf.merge(schema_node(), _UNTRAINED, dict(further))
    assert isinstance(cfg, DictConfig)
    try:
        for option in options:
            value = getattr(args, option.place)
            if value not in (None, False, []):
                OmegaConf.update(cfg, option.key, _value(option, value), merge=True, force_add=True)
        return parse(cfg)
    except InputError as error:
        raise in_options(error, options) from error


def in_options(error: InputError, options: Sequence[Option]) -> InputError:
    """The same words with each key called as this command calls it."""
    text = str(error)
    for option in sorted(options, key=lambda each: -len(each.key)):
        if schema_keys()[option.key].is_group:
            text = re.sub(rf"\b{re.escape(option.key)}\.(\w+)(?==)", rf"{option.flag} \1", text)
        text = re.sub(rf"([\"']?)\b{re.escape(option.key)}=(true\b)?", rf"{option.flag} \1", text)
        text = re.sub(rf"\b{re.escape(option.key)}\b", option.flag, text)
    text = text.replace("set donor.path to another", "give another").replace("donor.path=", "")
    return InputError(text.replace("donor.path", "donor"))


def _value(option: Option, value: Any) -> Any:
    key = schema_keys()[option.key]
    if not isinstance(value, list):
        return value if isinstance(value, bool) or key.is_text else _read(option, value)
    if key.is_open or key.is_group:
        merged: dict[str, Any] = {}
        for each in value:
            merged |= _pairs(option, each)
        return merged
    return [entry for each in value for entry in _entries(option, each)]


def _entries(option: Option, text: str) -> list[Any]:
    """A list as the config writes it, or one entry: a name, or PATTERN -> REPLACEMENT."""
    if text.lstrip().startswith("["):
        read = _read(option, text)
        return read if isinstance(read, list) else [text]
    if "->" in text:
        before, _, after = text.partition("->")
        return [[before.strip(), after.strip()]]
    return [text]


def _pairs(option: Option, text: str) -> dict[str, Any]:
    """A mapping as the config writes it, or one entry of it: NAME=VALUE."""
    if text.lstrip().startswith("{"):
        read = _read(option, text)
        return read if isinstance(read, dict) else {}
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{option.flag}: expected NAME=VALUE or {{NAME: VALUE, …}}, received {text!r}")
    return {name: _read(option, value)}


def _read(option: Option, text: str) -> Any:
    try:
        return safe_load(text)
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{option.flag}: expected a value in YAML, received {text!r}: {reason}") from error


def positive(text: str) -> int:
    """For `add_argument(type=…)`. Raises ArgumentTypeError below 1."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, received {value}")
    return value
