"""The header reader of safetensors: what is whole is read, everything else refused by name."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save, save_file

from open_llm_server.engine.safetensors_header import BITS, LONGEST_HEADER, Tensor, read_header
from open_llm_server.errors import WeightsError

MUTATIONS = 1000
LIMIT_S = 5.0
QUICK = settings(
    max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def entry(begin: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end], **changes}


def file(header: object, data: int = 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def test_a_file_of_the_librarys_own(path: Path) -> None:
    arrays: dict[str, Any] = {
        "matrix": np.ones((3, 5), np.float32),
        "numbers": np.arange(7),
        "nothing": np.ones((0, 4), np.float16),
        "one": np.ones((), np.float64),
    }
    save_file(arrays, path, metadata={"format": "pt"})
    header = read_header(path)
    assert header.metadata == {"format": "pt"}
    assert header.file_bytes == path.stat().st_size
    assert header.tensors == {
        "matrix": Tensor("F32", (3, 5), 60),
        "numbers": Tensor("I64", (7,), 56),
        "nothing": Tensor("F16", (0, 4), 0),
        "one": Tensor("F64", (), 8),
    }


def test_a_header_may_be_filled_up_with_spaces(path: Path) -> None:
    path.write_bytes(file(json.dumps({"a": entry(0, 8)}).encode() + b" " * 5))
    assert read_header(path).tensors["a"].data_bytes == 8


@pytest.mark.parametrize("length", [640, 1152])
def test_lengths_that_begin_like_a_pickle(path: Path, length: int) -> None:
    text = json.dumps({"a": entry(0, 8)}).encode().ljust(length)
    path.write_bytes(file(text))
    assert path.read_bytes()[0] == 0x80
    read_header(path)


DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut short"),
    "three bytes": (b"abc", "cut short"),
    "a length beyond the file": (file(b"{}")[:9], "cut short"),
    "a length beyond all files": (b"\xff" * 16, "cut short"),
    "pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix", "pickled file"),
    "torch's archive": (b"PK\x03\x04" + bytes(60), "pickled file"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "no header": (file(b""), "no JSON object"),
    "a list": (file(b"[]"), "no JSON object"),
    "no JSON": (file(b"{"), "not JSON"),
    "not UTF-8": (file(b'{"\xff": 1}'), "not JSON"),
    "deep": (file(b'{"a":' * 20_000), "not JSON"),
    "long number": (file(b'{"a":' + b"9" * 5_000 + b"}"), "not JSON"),
    "two headers": (file(json.dumps({"a": entry(0, 8)}).encode() * 2), "not JSON"),
    "no tensors": (file({}), "end 8 bytes before"),
    "nothing at all": (file({}, data=0), "end 0 bytes before"),
    "name twice": (
        file(b'{"a":{"dtype":"U8","dtype":"I8","shape":[8],"data_offsets":[0,8]}}'),
        "there twice",
    ),
    "metadata of numbers": (file({"__metadata__": {"a": 1}, "a": entry(0, 8)}), "not texts"),
    "metadata list": (file({"__metadata__": [], "a": entry(0, 8)}), "not texts"),
    "empty name": (file({"": entry(0, 8)}), "no name"),
    "name with a line": (file({"a\n": entry(0, 8)}), "no name"),
    "no object": (file({"a": 1}), "not given by"),
    "no type": (file({"a": {"shape": [8], "data_offsets": [0, 8]}}), "not given by"),
    "unknown type": (file({"a": entry(0, 8, dtype="F128")}), "unknown type"),
    "type of numbers": (file({"a": entry(0, 8, dtype=3)}), "unknown type"),
    "shape text": (file({"a": entry(0, 8, shape="8")}), "no shape"),
    "negative shape": (file({"a": entry(0, 8, shape=[-8])}), "no shape"),
    "shape of booleans": (file({"a": entry(0, 8, shape=[True, 8])}), "no shape"),
    "shape of fractions": (file({"a": entry(0, 8, shape=[8.0])}), "no shape"),
    "nine dimensions": (file({"a": entry(0, 8, shape=[1] * 8 + [8])}), "no shape"),
    "shape too small": (file({"a": entry(0, 8, shape=[7])}), "a shape of 7 bytes in 8"),
    "product overflow": (file({"a": entry(0, 8, shape=[2**32, 2**32, 8])}), "a shape of"),
    "offsets text": (file({"a": entry(0, 8, data_offsets="08")}), "outside"),
    "one offset": (file({"a": entry(0, 8, data_offsets=[8])}), "outside"),
    "backwards": (file({"a": entry(0, 8, data_offsets=[8, 0])}), "outside"),
    "negative offset": (file({"a": entry(0, 8, data_offsets=[-8, 0])}), "outside"),
    "beyond the end": (file({"a": entry(0, 9)}), "outside"),
    "hole at the front": (file({"a": entry(1, 8)}), "begins at 1 instead of 0"),
    "hole": (file({"a": entry(0, 3), "b": entry(4, 8)}), "begins at 4 instead of 3"),
    "overlap": (file({"a": entry(0, 5), "b": entry(4, 8)}), "begins at 4 instead of 5"),
    "rest": (file({"a": entry(0, 7)}), "end 1 bytes before"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused_by_name(path: Path, name: str) -> None:
    content, words = DAMAGED[name]
    path.write_bytes(content)
    with pytest.raises(WeightsError) as refused:
        read_header(path)
    assert words in refused.value.message
    assert str(path) in refused.value.message


def test_a_header_that_is_too_long(path: Path) -> None:
    with path.open("wb") as out:
        out.write((LONGEST_HEADER + 1).to_bytes(8, "little"))
        out.truncate(LONGEST_HEADER + 100)
    with pytest.raises(WeightsError, match="begin with no header"):
        read_header(path)


def test_a_path_without_a_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(WeightsError, match="cannot be read"):
            read_header(path)


def test_the_librarys_types_are_known(path: Path) -> None:
    """The library says itself which types it knows."""
    path.write_bytes(file({"a": entry(0, 8, dtype="nonsense")}))
    with pytest.raises(SafetensorError) as refused, safe_open(path, framework="np"):
        pass
    listed = str(refused.value).partition("expected one of")[2]
    assert listed
    assert {word for word in BITS if f"`{word}`" not in listed} <= {"F8_E4M3FNUZ", "F8_E5M2FNUZ"}


def read_by_both(path: Path) -> tuple[bool, bool]:
    """Whether we take the file, and whether the library does."""
    try:
        ours = bool(read_header(path).tensors)
    except WeightsError:
        ours = False
    try:
        with safe_open(path, framework="np") as opened:
            theirs = bool(opened.keys())
    except Exception:  # whatever it says
        theirs = False
    return ours, theirs


def whole() -> bytes:
    arrays = {f"layer.{place}": np.ones((place, 3), np.float16) for place in range(6)}
    return save(arrays, metadata={"format": "pt"})


def test_mutations_are_read_or_refused_as_the_library_does(path: Path) -> None:
    """What we take the library takes too: nobody gets past us with what only one of us sees."""
    generator = random.Random(20)
    content = whole()
    end = 8 + int.from_bytes(content[:8], "little")
    taken = 0
    for _ in range(MUTATIONS):
        changed = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            place = generator.randrange(end) if generator.random() < 0.9 else generator.randrange(8)
            kind = generator.randrange(4)
            if kind == 0:
                changed[place] = generator.randrange(256)
            elif kind == 1:
                changed[place] ^= 1 << generator.randrange(8)
            elif kind == 2:
                changed[place : place + generator.randint(1, 9)] = b""
            else:
                changed[place:place] = generator.choice([b"0", b"9", b"-", b'"', b"[", b"}", b","])
        path.write_bytes(changed)
        began = time.monotonic()
        ours, theirs = read_by_both(path)
        assert time.monotonic() - began < LIMIT_S
        assert theirs or not ours
        taken += ours
    assert 0 < taken < MUTATIONS


@QUICK
@given(content=st.binary(max_size=64))
def test_any_bytes_are_refused(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        read_header(path)


NUMBERS = st.integers(-2, 40) | st.sampled_from([2**31, 2**63, 2**64]) | st.booleans()
TENSORS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F16", "F32", "F4", "X", ""]),
        "shape": st.lists(NUMBERS, max_size=4),
        "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3),
    }
)


@QUICK
@given(header=st.dictionaries(st.text(max_size=3), TENSORS, max_size=4), data=st.integers(0, 40))
def test_what_is_taken_the_library_takes(header: dict[str, Any], data: int, path: Path) -> None:
    path.write_bytes(file(header, data))
    ours, theirs = read_by_both(path)
    assert theirs or not ours
