"""Pickles read as data: what plain values and arrays come out as, and that nothing else comes out, is called, forged or grows."""

import copyreg
import os
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypro.data.plain_pickle import load_pickle

RECORD = {
    "primary": "MKV\ud800é",
    "id": b"x" * 300,
    "long": "W" * 70_000,
    "numbers": [0, 255, 256, 65_536, -1, 2**31, -(2**63), 1.5, float("-inf"), True, False, None],
    "nested": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [[]], {}, {"a": {"b": 1}}],
    "names": [{"x": 1}, {"x": 2}, "same", "same"],
}
ARRAYS = {
    "flat": np.arange(3.0),
    "single": np.array([[1.5], [2.5]], np.float32),
    "by columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "every other": np.arange(6)[::2],
    "other byte order": np.arange(3, dtype=">i4"),
    "mask": np.array([True, False]),
    "half": np.array([0.5], np.float16),
    "text": np.array(["MKV", "é"]),
    "other text": np.array(["MKV", "é"], dtype=">U3"),
    "bytes": np.array([b"ab", b"c"]),
    "one": np.array(7, np.uint8),
    "none": np.zeros(0),
    "number": np.float32(0.1),
    "truth": np.bool_(True),
    "word": np.str_("HHH"),
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_what_is_plain_comes_out_as_it_went_in(protocol: int) -> None:
    assert load_pickle(pickle.dumps(RECORD, protocol)) == RECORD
    found = load_pickle(pickle.dumps(ARRAYS, protocol))
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == array.dtype and type(found[name]) is type(array), name
    old = pickle.dumps(ARRAYS, 3).replace(b"cnumpy._core.", b"cnumpy.core.")  # as numpy 1 wrote them
    np.testing.assert_array_equal(load_pickle(old)["by columns"], ARRAYS["by columns"])


def test_what_is_shared_comes_out_in_each_of_its_places() -> None:
    pair, mask = ("H", 3), np.arange(6).reshape(2, 3)
    found = load_pickle(pickle.dumps({"a": pair, "b": pair, "mask": mask, "valid": mask, "again": [mask]}))
    assert found["a"] == found["b"] == pair
    for array in (found["mask"], found["valid"], *found["again"]):
        np.testing.assert_array_equal(array, mask)


def test_text_as_python_2_wrote_it() -> None:
    assert load_pickle(b"\x80\x02}q\x00U\x07primaryq\x01T\x03\x00\x00\x00MKVq\x02s.") == {"primary": "MKV"}


def test_an_array_of_nothing_is_short_whatever_its_shape() -> None:
    forged = _filled(b"f8", b"\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"K\x00\x86", b"C\x00")
    assert load_pickle(forged).shape == (0,)  # as a list of lists it would be a million million long
    assert load_pickle(pickle.dumps(np.zeros((3, 0)))).tolist() == []


def test_truth_values_of_other_bytes_than_0_and_1_are_true() -> None:
    mask = load_pickle(_filled(b"b1", b"K\x03\x85", b"C\x03\x00\x01\xff"))
    assert mask.view(np.uint8).tolist() == [0, 1, 1] and np.count_nonzero(mask) == 2


class _Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.path,))


def _dtype(name: bytes, state: bytes = b"") -> bytes:
    return b"cnumpy\ndtype\n(\x8c" + bytes([len(name)]) + name + b"tR" + state


def _filled(name: bytes, shape: bytes, data: bytes, state: bytes = b"") -> bytes:
    """A pickle of an array as numpy writes it."""
    made = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    return b"\x80\x04" + made + b"(K\x01" + shape + _dtype(name, state) + b"\x89" + data + b"tb."


STRUCTURE, OF_ADDRESSES = (b"(K\x03\x8c\x01|N\x8c\x01x\x85}\x8c\x01x" + _dtype(t) + b"K\x00\x86sK\x08K\x01K\x00tb" for t in (b"f8", b"O"))
HUGE = b"\x8a\x09" + b"\xff" * 8 + b"\x00"
CALLS = {
    "GLOBAL, REDUCE": b"cos\nmkdir\n(\x8c\x01xtR.",
    "OBJ": b"(cos\nmkdir\n\x8c\x01xo.",
    "INST": b"(\x8c\x01xios\nmkdir\n.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93(\x8c\x01xtR.",
    "a name with a dot": b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93(\x8c\x01xtR.",
    "eval": b"cbuiltins\neval\n(\x8c\x12__import__('os')+1tR.",
    "another name of numpy's": b"cnumpy\nsave\n(\x8c\x01xI1\ntR.",
    "getattr": b"cbuiltins\ngetattr\n.",
    "a number in a registry": b"\x82\x01(\x8c\x01xtR.",
    "PERSID": b"Px\n.",
    "BINPERSID": b"\x8c\x01xQ.",
    "NEWOBJ": b"cnumpy\nndarray\nK\x01\x85\x81.",
    "NEWOBJ_EX": b"cnumpy\nndarray\nK\x01\x85}\x92.",
    "a value that is called": b"\x8c\x01x(tR.",
    "a list that is called": b"](tR.",
    "a type that is called": _dtype(b"f8") + b"(tR.",
    "the state of a mapping": b"}}\x8c\x01a}sb.",
    "the state of a list": b"]}b.",
    "the state of a name": b"cnumpy\nndarray\nN}\x8c\x08__call__K\x01s\x86b.",
    "the state of text": b"\x8c\x01xN}\x86b.",
    "values for a name": b"cnumpy\nndarray\n(K\x01e.",
    "fields for a list": b"]K\x00K\x01s.",
    "a buffer from outside": b"\x80\x05\x97.",
}
FORGED = {
    "objects by their addresses": b"\x80\x04cnumpy\nndarray\n(K\x02\x85" + _dtype(b"O") + b"C\x10" + b"A" * 16 + b"tR.",
    "an address in a filled array": _filled(b"O8", b"K\x01\x85", b"C\x08" + b"A" * 8),
    "an address as a number": b"\x80\x04cnumpy._core.multiarray\nscalar\n" + _dtype(b"O8") + b"C\x08" + b"A" * 8 + b"\x86R.",
    "an address in a buffer": b"\x80\x04cnumpy._core.numeric\n_frombuffer\n(C\x08AAAAAAAA" + _dtype(b"O") + b"K\x01\x85\x8c\x01CtR.",
    "an address in a structure": _filled(b"V8", b"K\x01\x85", b"C\x08" + b"A" * 8, OF_ADDRESSES),
    "a structure made of numbers": _filled(b"f8", b"K\x01\x85", b"C\x08" + b"A" * 8, STRUCTURE),
    "a type by several names": _filled(b"f8,O", b"K\x01\x85", b"C\x10" + b"A" * 16),
    "a type of addresses": _filled(b"P", b"K\x01\x85", b"C\x08" + b"A" * 8),
    "a date": _filled(b"M8[s]", b"K\x01\x85", b"C\x08" + b"A" * 8),
    "more values than bytes": _filled(b"f8", b"K\x02\x85", b"C\x08" + b"A" * 8),
    "fewer values than bytes": _filled(b"f8", b"K\x01\x85", b"C\x09" + b"A" * 9),
    "an array less than none long": _filled(b"f8", b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86", b"C\x08" + b"A" * 8),
    "a shape beyond all numbers": _filled(b"f8", HUGE + HUGE + b"\x86", b"C\x08" + b"A" * 8),
    "a million million texts without letters": _filled(b"S0", b"\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85", b"C\x00"),
    "characters that do not exist": _filled(b"U1", b"K\x01\x85", b"C\x04" + b"\xff" * 4),
    "the same in the other order": _filled(b"U1", b"K\x01\x85", b"C\x04\xff\x00\x00\x00", b"(K\x03\x8c\x01>NNNK\x04K\x04K\x00tb"),
    "a size in the type's state": _filled(b"S1", b"K\x02\x85", b"C\x10" + b"A" * 16, b"(K\x03\x8c\x01|NNNJ\x00\xe1\xf5\x05K\x01K\x00tb"),
    "an array without its bytes": b"\x80\x04cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR.",
    "axes that there are not": b"\x80\x04cnumpy._core.numeric\n_frombuffer\n(C\x02AA" + _dtype(b"u1") + b"K\x02\x85\x8c\x01KK\x05\x85tR.",
}
ENDLESS = {
    "a list in itself": b"\x80\x04]\x94h\x00a.",
    "a mapping in itself": b"\x80\x04}\x94\x8c\x01ah\x00s.",
    "lists of the same list": b"\x80\x04]\x94](h\x00h\x00e\x94](h\x01h\x01e.",
    "nested deeper than any record": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a field whose name is nested": b"\x80\x04}" + b")" + b"\x85" * 200_000 + b"K\x01s.",
    "a name that is nested": b"\x80\x04\x8c\x05numpy)" + b"\x85" * 200_000 + b"\x93.",
    "long text in many places": b"\x80\x04X" + struct.pack("<I", 10_000) + b"A" * 10_000 + b"\x94(" + b"h\x00" * 100_000 + b"l.",
    "a long tuple of nothing in many places": b"\x80\x04((" + b"\x8c\x00" * 100_000 + b"t\x94" + b"h\x00" * 100_000 + b"t.",
    "an array in too many places": b"\x80\x04]("
    + _filled(b"f8", b"M\x88\x13\x85", b"B" + struct.pack("<I", 40_000) + b"A" * 40_000)[2:-1]
    + b"q\xc8"
    + b"h\xc8" * 100_000
    + b"e.",
    "more text than there is": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"A.",
    "a number of two thousand million digits": b"\x80\x04\x8b\xff\xff\xff\x7f\x01.",
    "no end": b"\x80\x04K\x01",
    "nothing": b"",
    "an end without a value": b"\x80\x04.",
    "two values": b"\x80\x04K\x01K\x02.",
    "a mark without its end": b"\x80\x04(K\x01.",
    "values of the stack below": b"\x80\x04K\x01(a.",
    "a place that is empty": b"\x80\x04h\x07.",
    "no instruction": b"\x80\x04\xff.",
}


@pytest.mark.parametrize("name", [*CALLS, *FORGED, *ENDLESS])
def test_what_is_not_plain_is_refused_and_nothing_happens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError):
        load_pickle({**CALLS, **FORGED, **ENDLESS}[name])
    assert not list(tmp_path.iterdir())


def test_a_place_far_away_costs_nothing() -> None:
    assert load_pickle(b"\x80\x02]r\xff\xff\xff\xff(K\x01K\x02e.") == [1, 2]  # Python's own keeps a table of all places up to it


def test_calls_hidden_in_values_are_named(tmp_path: Path) -> None:
    evil = _Evil(str(tmp_path / "made"))
    for bad in (evil, [evil], {"a": (evil,)}, Path("x"), print, {1, 2}, 1j, 10**700, np.datetime64("now"), np.ma.array([1])):
        for protocol in (2, 3, 4, 5):
            with pytest.raises(pickle.UnpicklingError, match="neither a plain value nor a numpy array"):
                load_pickle(pickle.dumps(bad, protocol))
    with pytest.raises(pickle.UnpicklingError, match=r"posix.mkdir|nt.mkdir"):
        load_pickle(pickle.dumps(evil))
    assert not list(tmp_path.iterdir())
    pickle.loads(pickle.dumps(evil))
    assert list(tmp_path.iterdir())  # it would have done something


def test_what_others_put_into_the_registry_is_not_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copyreg.add_extension("posix", "mkdir", 77)
    try:
        hostile = pickle.dumps(_Evil("made"), 4)
        assert b"\x82M" in hostile
        pickle.loads(hostile)
        (tmp_path / "made").rmdir()  # and now Python's own machine keeps it at hand, without asking for a name
        with pytest.raises(pickle.UnpicklingError, match="instruction"):
            load_pickle(hostile)
    finally:
        copyreg.remove_extension("posix", "mkdir", 77)
        copyreg.clear_extension_cache()
    assert not list(tmp_path.iterdir())


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list | tuple) else [value]


def test_damaged_and_made_up_pickles_give_plain_values_or_are_refused() -> None:
    draw = random.Random(0)
    seeds = [pickle.dumps({**RECORD, "long": "", "id": b"", **ARRAYS}, protocol) for protocol in (2, 3, 4, 5)]
    seeds += [data for data in (CALLS | FORGED | ENDLESS).values() if len(data) < 1000]
    instructions = b"()]}.aesutbRc\x85\x86\x87\x93\x94hqKNGJMXCBr\x8a\x8c\x88\x89\x81\x8f\x90\x91\x92\x95\x96QP\x82o0123"
    refused = 0
    for _ in range(4000):
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(data) + 1)
            piece = bytes([draw.choice(instructions)]) if draw.random() < 0.6 else draw.choice(seeds)[: draw.randrange(40)]
            data[place : place + draw.choice([0, 1, 1, 5])] = piece
        try:
            leaves = _leaves(load_pickle(bytes(data)))
        except pickle.UnpicklingError:
            refused += 1
            continue
        for leaf in leaves:
            assert type(leaf) in (str, bytes, int, float, bool, type(None), np.ndarray) or isinstance(leaf, np.generic)
            assert getattr(leaf, "dtype", np.dtype(int)).kind in "biufSU"
            assert len(repr(leaf)) < 1_000_000
    assert 1000 < refused < 4000
