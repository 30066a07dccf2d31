"""A pickle read step by step, and the tensors and arrays that it tells of: right values, exact faults."""

from __future__ import annotations

import io
import pickle
import re
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import numpy as np
import pytest
import torch

from graft.transfer.donors.pickled import Key, Name, Opaque, Persistent, read_pickle
from graft.transfer.donors.rebuilt import NotRebuilt, tensor_of

PLAIN = {
    "numbers": [1, -(2**40), 2**100, 1.5, True, False, None],
    "texts": ("a", "\u00e4 b", b"\x00\xff", b"", ""),
    "nested": {"x": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, []], 3: {"y": [[]]}, None: 0, b"k": 1},
    "of classes": [OrderedDict(a=1), defaultdict(list, b=[2]), Counter("aab"), {}],
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_containers_and_plain_values_come_back_as_they_were(protocol: int) -> None:
    assert read_pickle(io.BytesIO(pickle.dumps(PLAIN, protocol))).root == PLAIN


def test_sets_become_lists_and_the_same_object_stays_one() -> None:
    shared = [1]
    for protocol in (0, 2, 4):
        found = read_pickle(io.BytesIO(pickle.dumps([shared, shared], protocol))).root
        assert found[0] is found[1]
    assert read_pickle(io.BytesIO(pickle.dumps([{7}, frozenset({8})], 4))).root == [[7], [8]]


def test_a_second_pickle_begins_where_the_first_ends() -> None:
    file = io.BytesIO(pickle.dumps(1) + pickle.dumps("two"))
    assert [read_pickle(file).root for _ in range(2)] == [1, "two"]


STEPS: list[tuple[bytes, Any]] = [
    (b"I1\nI2\n0.", 1),
    (b"I1\n(I2\n1.", 1),
    (b"I1\n(0.", 1),  # where nothing lies above the mark it is the mark that goes
    (b"(I1\n2l.", [1, 1]),
    (b"I1\np5\n0g5\n.", 1),
    (b"I1\n\x94I2\n\x94(g0\ng1\nl.", [1, 2]),
    (b"}I1\nI2\ns.", {1: 2}),
    (b"](I1\nI2\ne.", [1, 2]),
    (b"\x8f(I1\nI2\n\x90.", [1, 2]),
    (b"}}b.", {}),  # an OrderedDict's attributes
    (b"(Vmodule\ncm\nc\nI0\ntQ.", "m c"),  # torch before 1.6: a module's source beside its class
]


@pytest.mark.parametrize(("written", "root"), STEPS)
def test_instructions_that_no_writer_of_today_uses(written: bytes, root: Any) -> None:
    assert read_pickle(io.BytesIO(written)).root == root


OBJECTS: list[tuple[bytes, str, tuple[Any, ...]]] = [
    (b"(I7\nim\nc\n.", "m c", (7,)),
    (b"(cm\nc\nI7\no.", "m c", (7,)),
    (b"cm\nc\nI7\n\x85R.", "m c", (7,)),
    (b"cm\nc\nI7\n\x85\x81.", "m c", (7,)),
    (b"cm\nc\nI7\n\x85}\x92.", "m c", (7,)),
    (b"Vm\nVc\n\x93I7\n\x85R.", "m c", (7,)),
    (b"ccopyreg\n_reconstructor\n(cm\nc\ncbuiltins\nobject\nNtR.", "m c", ()),
    (b"ccopy_reg\n_reconstructor\n(cm\nc\nNNtR.", "m c", ()),
]


@pytest.mark.parametrize(("written", "name", "arguments"), OBJECTS)
def test_an_object_is_told_by_its_name_and_never_made(written: bytes, name: str, arguments: tuple[Any, ...]) -> None:
    found = read_pickle(io.BytesIO(written))
    assert isinstance(found.root, Opaque)
    assert (found.root.name, found.root.arguments, found.root.state) == (name, arguments, None)
    assert Name("m c") in found.names
    assert found.root.name.dotted == "m.c"


def test_what_an_object_is_given_stands_beside_its_name() -> None:
    made = b"cm\nc\n)R"
    with_state = read_pickle(io.BytesIO(made + b"}Vk\nI1\nsb.")).root
    assert (with_state.state, dict(with_state), with_state.elements) == ({"k": 1}, {}, [])
    assert dict(read_pickle(io.BytesIO(made + b"(I1\nI2\nu.")).root) == {1: 2}
    assert read_pickle(io.BytesIO(made + b"(I1\nI2\ne.")).root.elements == [1, 2]
    outside = read_pickle(io.BytesIO(b"(Pa\nPb\nl."))
    assert [each.id for each in outside.outside] == ["a", "b"]
    assert outside.root == outside.outside
    assert isinstance(outside.root[0], Persistent)


def test_only_keys_that_a_lookup_cannot_be_made_slow_by_stay_themselves() -> None:
    (large, small, real) = (2**60, 2**60 - 1, 1.5)
    for protocol in (0, 4):
        found = read_pickle(io.BytesIO(pickle.dumps({large: 1, -small: 2, real: 3, (1,): 4, True: 5}, protocol))).root
        assert [key.value if isinstance(key, Key) else key for key in found] == [large, -small, real, (1,), True]
        assert [isinstance(key, Key) for key in found] == [True, False, True, True, False]


FAULTS: list[tuple[bytes, type[Exception], str]] = [
    (b"R.", IndexError, "it takes from an empty stack"),
    (b"I1\nI2\n\x93.", TypeError, "it names something by no text"),
    (b"Vm\nI2\n\x93.", TypeError, "it names something by no text"),
    (b"I1\n)R.", TypeError, "it calls what has no name"),
    (b"cm\nc\nI1\nR.", TypeError, "it calls what has no name"),
    (b"I1\n}b.", TypeError, "it gives a state to a int"),
    (b"]I1\nI2\ns.", TypeError, "it puts items into what has none"),
    (b"}(I1\nu.", TypeError, "it puts items into what has none"),
    (b"}I1\na.", TypeError, "it puts elements into what has none"),
    (b"I1\n", ValueError, "pickle exhausted before seeing STOP"),
    (b"g9\n.", KeyError, "9"),
    (b"\x82\x01.", KeyError, "'EXT1'"),
]


@pytest.mark.parametrize(("written", "kind", "said"), FAULTS)
def test_a_damaged_pickle_says_what_it_does(written: bytes, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(said)}$"):
        read_pickle(io.BytesIO(written))


# -- torch's tensors

CONTENT = torch.arange(4, dtype=torch.float32).view(torch.uint8)
FLOATS = Name("torch FloatStorage")


def storages(key: str, length: int) -> torch.Tensor:
    assert (key, length) == ("0", 16)
    return CONTENT


def stored(kind: Name = FLOATS, count: int = 4, *view: Any) -> Persistent:
    return Persistent(("storage", kind, "0", "cpu", count, *view))


def tensor(storage: Any, offset: int = 0, size: Any = (4,), stride: Any = (1,), *rest: Any) -> Opaque:
    return Opaque(Name("torch._utils _rebuild_tensor_v2"), (storage, offset, size, stride, *rest))


MARKS = (False, OrderedDict())
V3 = Name("torch._utils _rebuild_tensor_v3")
TENSORS: list[tuple[Opaque, Any]] = [
    (tensor(stored()), [0, 1, 2, 3]),
    (tensor(stored(FLOATS, 4, None)), [0, 1, 2, 3]),
    (tensor(stored(), 1, (2,), (2,)), [1, 3]),
    (tensor(stored(), 0, (2, 2), (1, 2)), [[0, 2], [1, 3]]),
    (tensor(stored(), 3, (), ()), 3),
    (tensor(stored(), 9, (0,), (1,)), []),
    (tensor(stored(FLOATS, 4, ("v", 1, 2)), 0, (2,)), [1, 2]),
    (tensor(stored(FLOATS, 4, ("v", 1, 3)), 1, (2,)), [2, 3]),
    (tensor(stored(), 0, (4,), (1,), *MARKS, {"neg": True}), [0, -1, -2, -3]),
    (tensor(stored(), 0, (4,), (1,), *MARKS, {"conj": True}), [0, 1, 2, 3]),
    (Opaque(V3, (stored(), 1, (2,), (1,), *MARKS, Name("torch int32"))), CONTENT.view(torch.int32)[1:3].tolist()),
    (Opaque(V3, (stored(), 1, (2,), (1,), *MARKS, Name("torch float32"), {"neg": True})), [-1, -2]),
    (Opaque(Name("torch._utils _rebuild_parameter"), (tensor(stored()), True, None)), [0, 1, 2, 3]),
]


@pytest.mark.parametrize(("told", "expected"), TENSORS)
def test_a_tensor_is_a_view_of_its_storage(told: Opaque, expected: Any) -> None:
    found = tensor_of(told, storages)
    assert found.tolist() == expected
    assert found.dtype is (torch.int32 if Name("torch int32") in told.arguments else torch.float32)


def test_a_storage_that_its_writer_did_not_align_is_read() -> None:
    shifted = torch.cat([torch.zeros(1, dtype=torch.uint8), CONTENT])[1:]
    assert tensor_of(tensor(stored(), 1, (3,)), lambda key, length: shifted).tolist() == [1, 2, 3]


def test_a_view_of_the_conjugate_is_conjugated() -> None:
    kind = Name("torch ComplexFloatStorage")
    told = tensor(stored(kind, 2), 0, (2,), (1,), *MARKS, {"conj": True})
    assert tensor_of(told, storages).tolist() == [0 - 1j, 2 - 3j]


UNSOUND: list[tuple[Opaque, type[Exception], str]] = [
    (tensor(stored(FLOATS, 4, ("v", 3, 2))), ValueError, "a view of a storage that is none: [('v', 3, 2)]"),
    (tensor(stored(FLOATS, 4, ("v", -1, 2))), ValueError, "a view of a storage that is none: [('v', -1, 2)]"),
    (tensor(stored(FLOATS, 4, ("v", 0, 2)), 0, (3,)), ValueError,
     "a tensor of shape (3,) that reaches beyond its storage of 8 bytes"),
    (tensor(stored(), 1, (4,)), ValueError, "a tensor of shape (4,) that reaches beyond its storage of 16 bytes"),
    (tensor(stored(), 0, (2, 2), (2, 2)), ValueError,
     "a tensor of shape (2, 2) that reaches beyond its storage of 16 bytes"),
    (tensor(7), ValueError, "a tensor on a int in place of a storage"),
    (tensor(stored(Name("torch QInt8Storage"))), NotRebuilt, "torch.QInt8Storage"),
    (tensor(stored(), 0, (2,), ()), ValueError, "a tensor of shape (2,) and strides ()"),
    (tensor(stored(), 0, (-1,), (1,)), ValueError, "a tensor of shape (-1,) and strides (1,)"),
    (tensor(stored(), -1, (1,), (1,)), ValueError, "a tensor of shape (1,) and strides (1,)"),
    (tensor(stored(), 0, (True,), (1,)), ValueError, "a tensor of shape (True,) and strides (1,)"),
    (tensor(stored(), 0, (1,) * 65, (1,) * 65), ValueError, f"a tensor of shape {(1,) * 8} and strides {(1,) * 8}"),
    (Opaque(V3, (stored(), 0, (1,), (1,), *MARKS, Name("torch nothing"))), ValueError,
     "a tensor of torch.nothing, which is no dtype"),
    (Opaque(Name("torch._utils _rebuild_sparse_tensor"), ()), NotRebuilt, "torch._utils._rebuild_sparse_tensor"),
]  # fmt: skip


@pytest.mark.parametrize(("told", "kind", "said"), UNSOUND)
def test_a_tensor_that_its_storage_does_not_hold_is_refused(told: Opaque, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(said)}$"):
        tensor_of(told, storages)


def test_without_storages_beside_the_pickle_there_is_no_tensor_on_one() -> None:
    with pytest.raises(ValueError, match=r"^a tensor on a Persistent in place of a storage$"):
        tensor_of(tensor(stored()), None)


# -- NumPy's arrays


def numpy_type(code: str | bytes, order: str | bytes = "<") -> Opaque:
    kind = Opaque(Name("numpy dtype"), (code, False, True))
    kind.state = (3, order, None, None, None, -1, -1, 0)
    return kind


def array(content: bytes, kind: Opaque, shape: tuple[Any, ...], order: str = "C") -> Opaque:
    return Opaque(Name("numpy._core.numeric _frombuffer"), (content, kind, shape, order))


def of_state(content: str | bytes, kind: Opaque, shape: tuple[Any, ...], *, fortran: bool) -> Opaque:
    made = Opaque(Name("numpy.core.multiarray _reconstruct"), ())
    made.state = (1, shape, kind, fortran, content)
    return made


SIX = np.arange(6, dtype="<f4")
ARRAYS: list[tuple[Opaque, Any]] = [
    (array(SIX.tobytes(), numpy_type("f4"), (6,)), [0, 1, 2, 3, 4, 5]),
    (array(SIX.tobytes(), numpy_type("f4"), (2, 3)), [[0, 1, 2], [3, 4, 5]]),
    (array(SIX.tobytes(), numpy_type("f4"), (2, 3), "F"), [[0, 2, 4], [1, 3, 5]]),
    (array(SIX.astype(">f4").tobytes(), numpy_type(b"f4", b">"), (6,)), [0, 1, 2, 3, 4, 5]),
    (array(b"\x01\x00", numpy_type("b1", "|"), (2,)), [True, False]),
    (of_state(SIX.tobytes(), numpy_type("f4"), (3, 2), fortran=False), [[0, 1], [2, 3], [4, 5]]),
    (of_state(SIX.tobytes().decode("latin-1"), numpy_type("f4"), (3, 2), fortran=True), [[0, 3], [1, 4], [2, 5]]),
]


@pytest.mark.parametrize(("told", "expected"), ARRAYS)
def test_an_array_is_its_bytes_in_its_own_order(told: Opaque, expected: Any) -> None:
    assert tensor_of(told, None).tolist() == expected


UNREADABLE: list[tuple[Opaque, type[Exception], str]] = [
    (array(b"1234", numpy_type("f4"), (2,)), ValueError, "an array of shape (2,) and type float32 with 4 bytes"),
    (array(b"1234", numpy_type("f4"), (-1,)), ValueError, "an array of shape (-1,) and type float32 with 4 bytes"),
    (array(b"1234", numpy_type("f4"), (True,)), ValueError, "an array of shape (True,) and type float32 with 4 bytes"),
    (array(b"1234", numpy_type("S4"), (1,)), NotRebuilt, "an array of numpy.dtype ('S4', False, True)"),
    (array(b"1234", Opaque(Name("numpy dtype"), ("f4",)), (1,)), NotRebuilt, "an array of numpy.dtype ('f4',)"),
    (of_state([], numpy_type("O8"), (1,), fortran=False), NotRebuilt,  # pyright: ignore[reportArgumentType]
     "numpy.core.multiarray._reconstruct of objects"),
]  # fmt: skip


@pytest.mark.parametrize(("told", "kind", "said"), UNREADABLE)
def test_an_array_that_is_not_its_bytes_is_refused(told: Opaque, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(said)}$"):
        tensor_of(told, None)
