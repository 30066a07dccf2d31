"""Reads the structure of a pickle without calling anything: containers, plain values, and in place of each object the
name of its class with its pickled state."""

from __future__ import annotations

import os
import pickletools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import IO, Any

_OBJECTS, _BYTES_PER_OBJECT = 300_000, 128
"""A pickle may create this many objects, or one per so many bytes of its file, whichever is more …"""
_STEPS, _BYTES_PER_STEP = 2_000_000, 32
"""… and take this many steps: one byte of a pickle can create an object of two hundred bytes. ResNet-152's checkpoint
with its optimizer creates 20,000 objects in 90,000 steps."""
_LARGEST_KEY = 2**60
"""Larger integers can be chosen so that all of them collide in a dictionary, which takes forever."""
_DICTIONARIES = frozenset(
    f"{module} {name}"
    for module, names in {
        "collections": ("OrderedDict", "Counter", "defaultdict"),
        "builtins": ("dict",),
        "__builtin__": ("dict",),
    }.items()
    for name in names
)


class Name(str):
    """A reference to a Python object in a pickle: `module name`."""

    __slots__ = ()

    @property
    def dotted(self) -> str:
        return ".".join(self.split(" "))


class Opaque(dict[Any, Any]):
    """An object that is not constructed but only described: its constructor arguments, state, items and elements.

    It is a dictionary, so that third-party classes derived from dict can be inspected.
    """

    __slots__ = ("arguments", "elements", "name", "state")

    def __init__(self, name: Name, arguments: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.name, self.arguments = name, arguments
        self.state: Any = None
        self.elements: list[Any] = []


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A dictionary key that is neither text nor a small number; compared by identity."""

    value: Any


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """An object outside the pickle, by its id: a storage of torch."""

    id: Any


@dataclass(slots=True)
class Pickled:
    """The contents of one pickle."""

    root: Any = None
    names: set[Name] = field(default_factory=set[Name])
    """All Python objects that it refers to."""
    outside: list[Persistent] = field(default_factory=list[Persistent])


def kind_of(value: object) -> str:
    """The name of a value's class, as in the pickle."""
    return value.name.dotted if isinstance(value, Opaque) else type(value).__name__


def read_pickle(file: IO[bytes]) -> Pickled:
    """Reads one pickle, from the file's current position to the end of the pickle.

    Raises:
        ValueError, TypeError, LookupError, EOFError, …: it is damaged (`refusal.DAMAGE`), or needs more memory than a
            checkpoint can.
    """
    here = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(here)
    return _Machine(size).run(file)


class _Machine:
    """A pickle is a program for a stack machine. This machine has no instruction that calls anything."""

    def __init__(self, size: int) -> None:
        self.result = Pickled()
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.objects = max(_OBJECTS, size // _BYTES_PER_OBJECT)
        self.steps = max(_STEPS, size // _BYTES_PER_STEP)

    def run(self, file: IO[bytes]) -> Pickled:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes in damaged strings
            for opcode, argument, _ in pickletools.genops(file):
                self.steps -= 1
                if self.steps < 0:
                    raise ValueError("it takes more steps than a file of its size needs")
                if opcode.name == "STOP":
                    self.result.root = self.stack.pop()
                    return self.result
                if opcode.name in _CONSTANTS:
                    self.stack.append(argument)
                elif opcode.name not in _IGNORED:
                    _STEPS_BY_NAME[opcode.name](self, argument)
        raise EOFError("it has no end")

    def counted(self, value: Any) -> Any:
        self.objects -= 1
        if self.objects < 0:
            raise ValueError("it makes more objects than a file of its size needs")
        return value

    def push(self, value: Any) -> None:
        self.stack.append(self.counted(value))

    def popped(self, count: int) -> list[Any]:
        values = self.stack[len(self.stack) - count :]
        if len(values) < count:
            raise IndexError("it takes from an empty stack")
        del self.stack[len(self.stack) - count :]
        return values

    def since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.marked.pop()
        return values

    # -- instructions

    def mark(self, _: Any) -> None:
        self.marked.append(self.counted(self.stack))
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def put(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def name(self, words: str | None) -> None:
        if words is None:
            module, name = self.popped(2)
            if not (isinstance(module, str) and isinstance(name, str)):
                raise TypeError("it names something by no text")
            words = f"{module} {name}"
        self.result.names.add(Name(words))
        self.push(Name(words))

    def call(self, name: Any, arguments: Any) -> None:
        if not (isinstance(name, Name) and isinstance(arguments, tuple)):
            raise TypeError("it calls what has no name")
        self.push(_value_of_call(name, arguments))

    def instance(self, words: str | None) -> None:
        values = self.since_mark()
        if words is not None:
            self.result.names.add(Name(words))
            values.insert(0, Name(words))
        self.call(values[0], tuple(values[1:]))

    def persistent(self, text: str | None) -> None:
        identity = self.stack.pop() if text is None else text
        match identity:
            case ("module", Name() as name, *_):  # torch before 1.6 puts a module's source code beside its class
                self.push(name)
                return
            case _:
                outside = Persistent(identity)
        self.result.outside.append(outside)
        self.push(outside)

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Opaque):
            self.stack[-1].state = state
        elif type(self.stack[-1]) is not dict:  # an OrderedDict's attributes are nothing that is looked at
            raise TypeError(f"it gives a state to a {type(self.stack[-1]).__name__}")

    def set_items(self, flat: list[Any]) -> None:
        into = self.stack[-1]
        if not isinstance(into, dict) or len(flat) % 2:
            raise TypeError("it puts items into what has none")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            into[_key(key)] = value

    def extend(self, values: Iterable[Any]) -> None:
        into = self.stack[-1]
        if not isinstance(into, list | Opaque):
            raise TypeError("it puts elements into what has none")
        (into.elements if isinstance(into, Opaque) else into).extend(values)


def _value_of_call(name: Name, arguments: tuple[Any, ...]) -> Any:
    """The result of a call: real dictionaries and bytes, and a description of anything else."""
    match str(name), arguments:
        case kind, _ if kind in _DICTIONARIES:
            pairs = [pair for argument in arguments for pair in _pairs(argument)]
            return {_key(key): value for key, value in pairs}
        case "_codecs encode", (str(text), "latin1" | "latin-1"):
            return text.encode("latin-1")
        case "builtins bytes" | "__builtin__ bytes", ():
            return b""
        case "copyreg _reconstructor" | "copy_reg _reconstructor", (Name() as of, *_):
            return Opaque(of)
        case _:
            return Opaque(name, arguments)


def _pairs(argument: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(argument, dict):
        return argument.items()
    if isinstance(argument, list):
        return [(key, value) for key, value in argument]
    return []  # a default factory


def _key(key: Any) -> Any:
    """A substitute for a dictionary's key, so that lookups can be neither slow nor fail."""
    plain = isinstance(key, str | bytes | bool) or key is None or (type(key) is int and abs(key) < _LARGEST_KEY)
    return key if plain else Key(key)


def _dictionary(flat: list[Any]) -> dict[Any, Any]:
    return {_key(key): value for key, value in zip(flat[::2], flat[1::2], strict=True)}


_CONSTANTS = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE",
    "BINUNICODE", "BINUNICODE8",
})  # fmt: skip
_IGNORED = frozenset({"PROTO", "FRAME"})
_STEPS_BY_NAME: dict[str, Callable[[_Machine, Any], None]] = {
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "FROZENSET": lambda machine, _: machine.push(machine.since_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.popped(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.popped(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.popped(3))),
    "DICT": lambda machine, _: machine.push(_dictionary(machine.since_mark())),
    "SETITEM": lambda machine, _: machine.set_items(machine.popped(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "APPEND": lambda machine, _: machine.extend(machine.popped(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda machine, _: machine.since_mark().clear(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, place: machine.stack.append(machine.memo[place])),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _Machine.name),
    "REDUCE": lambda machine, _: machine.call(*machine.popped(2)),
    "NEWOBJ": lambda machine, _: machine.call(*machine.popped(2)),
    "NEWOBJ_EX": lambda machine, _: machine.call(*machine.popped(3)[:2]),
    **dict.fromkeys(("INST", "OBJ"), _Machine.instance),
    "BUILD": _Machine.build,
    **dict.fromkeys(("PERSID", "BINPERSID"), _Machine.persistent),
}
"""Without copyreg's extension codes and buffers outside the file, which no checkpoint has."""
