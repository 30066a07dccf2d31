"""The schema in types that OmegaConf can check, and from what it has checked to values of the schema's own types.

OmegaConf knows numbers, text, enums, and lists, mappings and dataclasses of these. The schema also has durations,
closed sets of words, and numbers for which a word may stand. The form is made of the schema here: it has what is
written for each of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from graft.config.duration import Duration, parse_duration

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """A value of the config, or a tree of them, as YAML has it: sections as mappings, durations as they were typed."""
    if isinstance(value, Duration):
        return value.source
    if dataclasses.is_dataclass(value):
        return {each.name: to_plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {to_plain(name): to_plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    return value


@cache
def form_of(section: type) -> type:
    """A dataclass of the schema with the same fields and defaults, in types of OmegaConf's."""
    types = get_type_hints(section)
    return dataclasses.make_dataclass(
        section.__name__,
        [
            (each.name, _form_type(types[each.name]), _default(each, types[each.name]))
            for each in dataclasses.fields(section)
        ],
        kw_only=True,
    )


def values_of(section: type[T], form: Mapping[str, Any], key: str = "") -> T:
    """The section's values, of what is written for them in plain containers; what is not keeps its default.

    Args:
        key: the section's own, named in errors.

    Raises:
        InputError: a duration that is none.
    """
    types = get_type_hints(section)
    prefix = f"{key}." if key else ""
    return section(**{name: _value(types[name], entry, f"{prefix}{name}") for name, entry in form.items()})


def is_section(annotation: Any) -> bool:
    """Whether it holds further keys of the schema."""
    return annotation is not Duration and dataclasses.is_dataclass(annotation)


def _form_type(annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if is_section(annotation):
        return form_of(annotation)
    if origin in (Union, UnionType):
        plain = [_form_type(argument) for argument in arguments if argument is not NoneType]
        return Any if len(plain) > 1 or plain == [Any] else plain[0] | None
    if origin is list:
        return list[_form_type(arguments[0])]
    if origin is dict:
        return dict[str, _form_type(arguments[1])]
    return Any if annotation is Duration else str if origin is Literal else annotation


def _default(each: dataclasses.Field[Any], annotation: Any) -> Any:
    if is_section(annotation):
        return dataclasses.field(default_factory=form_of(annotation))
    if each.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=each.default_factory)
    return dataclasses.field(default=to_plain(each.default))


def _value(annotation: Any, form: Any, key: str) -> Any:
    arguments = get_args(annotation)
    if annotation == Duration | None:
        return None if form is None else parse_duration(form, key)
    if annotation is Duration:
        return parse_duration(form, key)
    if is_section(annotation):
        return values_of(annotation, form, key)
    if get_origin(annotation) is dict and arguments[0] is Duration:
        return {parse_duration(name, key): entry for name, entry in cast(dict[str, Any], form).items()}
    return form
