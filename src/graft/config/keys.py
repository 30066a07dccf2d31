"""Every key that a user may write, read off the schema: its type in words, its docstring, its default."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from graft.config.choices import Freeze
from graft.config.duration import Duration
from graft.config.faults import nearest
from graft.config.schema import Config
from graft.config.values import is_section, to_plain

# What people who come from other tools type, and the key that it is here.
ALIASES = {
    "arch": "backbone.name",
    "dataset": "data",
    "epochs": "trainer.max_epochs",
    "gpus": "trainer.devices",
    "learning_rate": "optimizer.lr",
    "model": "backbone",
    "momentum": "optimizer.kwargs",
    "pretrained": "donor",
    "weights": "donor.path",
    "workers": "data.num_workers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    name: str
    """In full, with dots: optimizer.lr."""
    expected: str
    """Its type in words."""
    doc: str
    default: Any
    """As one writes it; dataclasses.MISSING where there is none."""
    is_group: bool
    """It holds further keys of the schema."""
    choices: tuple[str, ...]
    """Where an enum closes the words."""
    words: tuple[str, ...]
    """Where a Literal does, of the value or of each entry of a list or mapping."""
    is_text: bool
    """Text, whatever YAML would read in it."""
    is_list: bool
    is_open: bool
    """It holds entries that the user names."""
    is_nullable: bool
    """Null is one of its values."""


@cache
def schema_keys() -> dict[str, Key]:
    """All keys by full name, groups before what they hold, in the schema's order."""
    return {key.name: key for key in _keys_of(Config, "")}


def leaves() -> list[Key]:
    return [key for key in schema_keys().values() if not key.is_group]


def is_known(name: str) -> bool:
    """A key of the schema, or an entry below one whose entries the user names."""
    keys = schema_keys()
    parts = name.split(".")
    above = (keys.get(".".join(parts[:count])) for count in range(1, len(parts)))
    return name in keys or any(key is not None and key.is_open for key in above)


def is_group(name: str) -> bool:
    """Whether conf/config.yaml chooses an option of a group of this name; a user's own groups are others."""
    key = schema_keys().get(name)
    return name == "experiment" or (key is not None and key.is_group)


def nearest_keys(name: str) -> list[str]:
    """Keys in full that the user may have meant, best first: another tool's word, the same last part, a look-alike."""
    keys = schema_keys()
    last = name.replace("/", ".").rsplit(".", 1)[-1].replace("-", "_")
    if last in ALIASES:
        return [ALIASES[last]]
    same_last = [key for key in keys if key.rsplit(".", 1)[-1] == last]
    if same_last:
        beside = [key for key in keys if key.rpartition(".")[0] == name.rpartition(".")[0] != ""]
        return nearest(name, [*same_last, *beside]) or same_last[:3]
    if len(last) < 3:
        return []
    if looks_like := nearest(name, keys):
        return get_close_matches(name, looks_like, cutoff=0.85) or looks_like
    last_parts = nearest(last, {key.rsplit(".", 1)[-1] for key in keys})
    return [key for part in last_parts for key in keys if key.rsplit(".", 1)[-1] == part][:3]


def in_words(annotation: Any) -> str:
    """`int | None` is "a whole number or null"."""
    return _SINGULARS.get(annotation) or _compound(annotation)


_SINGULARS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Any: "a value",
    Duration: "a duration",
}
_PLURALS: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts", Any: "values", Duration: "moments"}


def _compound(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join("null" if argument is NoneType else in_words(argument) for argument in arguments)
    if origin is list:
        return f"a list of {_plural(arguments[0])}"
    if origin is dict:
        return f"a mapping of {_plural(arguments[0])} to {_plural(arguments[1])}"
    choices = _choices(annotation) or _words(annotation)
    if len(choices) == 1:
        return choices[0]
    return f"one of {', '.join(choices)}" if choices else "a group of keys"


def _choices(annotation: Any) -> tuple[str, ...]:
    if not (isinstance(annotation, type) and issubclass(annotation, Enum)):
        return ()
    return tuple(str(choice.value) for choice in annotation)


def _plural(annotation: Any) -> str:
    if annotation == Freeze:
        return "stage expressions or lists of name prefixes"
    if get_origin(annotation) is list:
        return f"lists of {_plural(get_args(annotation)[0])}"
    words = _words(annotation)
    return f"the words {', '.join(words)}" if words else _PLURALS[annotation]


def _words(annotation: Any) -> tuple[str, ...]:
    """Of a Literal, or of one that may be null; of the entries of a list or mapping."""
    arguments = [argument for argument in get_args(annotation) if argument is not NoneType]
    if get_origin(annotation) is Literal:
        return cast(tuple[str, ...], tuple(arguments))
    if get_origin(annotation) is list or (get_origin(annotation) in (Union, UnionType) and len(arguments) == 1):
        return _words(arguments[0])
    return _words(arguments[1]) if get_origin(annotation) is dict else ()


def _is_text(annotation: Any) -> bool:
    arguments = [argument for argument in get_args(annotation) if argument is not NoneType]
    if get_origin(annotation) in (Union, UnionType) and len(arguments) == 1:
        return _is_text(arguments[0])
    return annotation is str or get_origin(annotation) is Literal


def _keys_of(section: type, prefix: str) -> Iterator[Key]:
    types, docs = get_type_hints(section), _field_docs(section)
    for each in dataclasses.fields(section):
        name, annotation = prefix + each.name, types[each.name]
        is_group = is_section(annotation)
        yield Key(
            name=name,
            expected=in_words(annotation),
            doc=docs.get(each.name, ""),
            default=_default(each),
            is_group=is_group,
            choices=_choices(annotation),
            words=_words(annotation),
            is_text=_is_text(annotation),
            is_list=annotation != Freeze and list in [get_origin(each) for each in (annotation, *get_args(annotation))],
            is_open=get_origin(annotation) is dict,
            is_nullable=NoneType in get_args(annotation),
        )
        if is_group:
            yield from _keys_of(annotation, f"{name}.")


def _default(each: dataclasses.Field[Any]) -> Any:
    if each.default_factory is not dataclasses.MISSING:
        return each.default_factory()
    return dataclasses.MISSING if each.default == "???" else to_plain(each.default)


def _field_docs(section: type) -> dict[str, str]:
    """The docstring under each field, which Python itself does not keep."""
    statements = _classes_of(section.__module__)[section.__name__].body
    docs: dict[str, str] = {}
    for statement, following in pairwise(statements):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            docs[statement.target.id] = inspect.cleandoc(str(following.value.value))
    return docs


@cache
def _classes_of(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {statement.name: statement for statement in tree.body if isinstance(statement, ast.ClassDef)}
