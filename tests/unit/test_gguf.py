"""The header reader: says what a file is, and refuses every file that is not whole."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf as writer_library
import pytest
from ggufs import SMALL, byte_pairs, write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from open_llm_server.engine.gguf import read_header
from open_llm_server.engine.gguf_format import TENSOR_TYPES, Array
from open_llm_server.errors import WeightsError

QUICK = settings(
    max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MOST_BYTES = 64 * 1024 * 1024
"""What reading a damaged header may allocate."""


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(
    name: str = "a", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0, **extra: int
) -> bytes:
    dimensions = extra.get("dimensions", len(shape))
    head = text(name) + struct.pack(f"<I{len(shape)}Q", dimensions, *shape)
    return head + struct.pack("<IQ", kind, offset)


ARCHITECTURE = key("general.architecture", 8, text("llama"))


def file(
    keys: tuple[bytes, ...] = (ARCHITECTURE,),
    tensors: tuple[bytes, ...] = (tensor(),),
    *,
    version: int = 3,
    data: int = 16,
    counts: tuple[int, int] | None = None,
) -> bytes:
    num_tensors, num_keys = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys)
    body = head + b"".join(keys) + b"".join(tensors)
    return body + b"\0" * (-len(body) % 32) + b"\1" * data


def array(element: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<IQ", element, count) + data


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_model(path, SMALL)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.gguf"


def test_says_what_the_file_is(model: Path) -> None:
    header = read_header(model)
    assert header.architecture == "llama"
    assert header.name == SMALL.label
    assert header.context_length == 512
    assert header.quantisation == "F32"
    assert header.chat_template
    assert header.file_bytes == model.stat().st_size
    reader = writer_library.GGUFReader(model)
    assert header.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert [tensor.name for tensor in header.tensors] == [t.name for t in reader.tensors]
    assert [tensor.data_bytes for tensor in header.tensors] == [
        int(t.n_bytes) for t in reader.tensors
    ]


def test_reads_other_vocabularies_and_quantisations(path: Path) -> None:
    add: Any = byte_pairs("llama-bpe")
    write_model(path, SMALL, add_vocabulary=add)
    assert read_header(path).metadata["tokenizer.ggml.merges"] == Array("string", 5)


def test_the_smallest_file(path: Path) -> None:
    path.write_bytes(file())
    assert read_header(path).parameters == 4


def test_the_table_of_types_is_the_formats_own() -> None:
    known = {
        kind.value: (kind.name, *sizes) for kind, sizes in writer_library.GGML_QUANT_SIZES.items()
    }
    assert {number: TENSOR_TYPES[number] for number in known} == known


DAMAGED = {
    "empty": (b"", "is empty"),
    "not a GGUF": (b"PK\3\4" + b"\0" * 60, "is not a GGUF file"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "web page": (b"<!doctype html><title>404</title>", "web page"),
    "version 1": (file(version=1), "version 1"),
    "version 4": (file(version=4), "version 4"),
    "big-endian": (file(version=3 << 24), "big-endian"),
    "tensor count": (file(counts=(2**63, 1)), "claims"),
    "key count": (file(counts=(1, 2**32)), "claims"),
    "more keys than there are": (file(counts=(1, 5)), "damaged"),
    "more tensors than there are": (file(counts=(9, 1)), "damaged"),
    "key length": (file((struct.pack("<Q", 2**62) + b"a",)), "text of"),
    "key not UTF-8": (file((struct.pack("<Q", 2) + b"\xff\xfe" + b"\0" * 8,)), "not UTF-8"),
    "empty key": (file((key("", 4, b"\0" * 4),)), "empty or there twice"),
    "key twice": (file((ARCHITECTURE, ARCHITECTURE)), "there twice"),
    "value type": (file((ARCHITECTURE, key("a", 13, b"\0" * 8))), "unknown type 13"),
    "text length": (file((ARCHITECTURE, key("a", 8, struct.pack("<Q", 2**40)))), "text of"),
    "bool": (file((ARCHITECTURE, key("a", 7, b"\2"))), "neither true nor false"),
    "array count": (file((ARCHITECTURE, key("a", 9, array(4, 2**61)))), "elements"),
    "array beyond the end": (file((ARCHITECTURE, key("a", 9, array(4, 10_000)))), "cut off"),
    "nested array": (file((ARCHITECTURE, key("a", 9, array(9, 1)))), "array of type 9"),
    "too many texts": (file((ARCHITECTURE, key("a", 9, array(8, 2**60)))), "texts"),
    "text in an array": (
        file((ARCHITECTURE, key("a", 9, array(8, 1, struct.pack("<Q", 2**50))))),
        "text of",
    ),
    "tokens of numbers": (
        file((ARCHITECTURE, key("tokenizer.ggml.tokens", 9, array(4, 1, b"\0" * 4)))),
        "not an array of string",
    ),
    "tokens of one number": (
        file((ARCHITECTURE, key("tokenizer.ggml.tokens", 4, b"\0" * 4))),
        "not an array of string",
    ),
    "token twice": (
        file((ARCHITECTURE, key("tokenizer.ggml.tokens", 9, array(8, 2, text("a") * 2)))),
        "token 1 of its vocabulary is there twice",
    ),
    "scores of texts": (
        file((ARCHITECTURE, key("tokenizer.ggml.scores", 9, array(8, 1, text("a"))))),
        "not an array of float32",
    ),
    "fewer scores than tokens": (
        file(
            (
                ARCHITECTURE,
                key("tokenizer.ggml.tokens", 9, array(8, 2, text("a") + text("b"))),
                key("tokenizer.ggml.scores", 9, array(6, 1, b"\0" * 4)),
            )
        ),
        "differ in number",
    ),
    "template of numbers": (
        file((ARCHITECTURE, key("tokenizer.chat_template", 4, b"\0" * 4))),
        "not a text",
    ),
    "no heads": (
        file((ARCHITECTURE, key("llama.attention.head_count", 4, b"\0" * 4))),
        "head_count is 0",
    ),
    "513 layers": (
        file((ARCHITECTURE, key("llama.block_count", 4, struct.pack("<I", 513)))),
        "block_count is 513",
    ),
    "experts from nowhere": (
        file((ARCHITECTURE, key("llama.expert_used_count", 4, struct.pack("<I", 2)))),
        "uses 2 of 0 experts",
    ),
    "weights of integers": (
        file(tensors=(tensor("blk.0.attn_k.weight", kind=26),)),
        "has the type I32",
    ),
    "negative context": (
        file((ARCHITECTURE, key("llama.context_length", 5, struct.pack("<i", -1)))),
        "context_length is -1",
    ),
    "negative epsilon": (
        file((ARCHITECTURE, key("llama.attention.layer_norm_epsilon", 6, struct.pack("<f", -1)))),
        "layer_norm_epsilon is -1.0",
    ),
    "endless epsilon": (
        file((ARCHITECTURE, key("llama.layer_norm_rms_epsilon", 12, struct.pack("<d", 1e999)))),
        "layer_norm_rms_epsilon is inf",
    ),
    "no number": (
        file((ARCHITECTURE, key("llama.rope.freq_base", 6, b"\0\0\xc0\x7f"))),
        "freq_base is nan",
    ),
    "no architecture": (file(()), "no architecture"),
    "no weights": (file(tensors=()), "no weights"),
    "alignment 0": (
        file((ARCHITECTURE, key("general.alignment", 4, struct.pack("<I", 0)))),
        "alignment is 0",
    ),
    "alignment 2**31": (
        file((ARCHITECTURE, key("general.alignment", 4, struct.pack("<I", 2**31)))),
        "alignment",
    ),
    "alignment 48": (
        file((ARCHITECTURE, key("general.alignment", 4, struct.pack("<I", 48)))),
        "no power of two",
    ),
    "alignment text": (
        file((ARCHITECTURE, key("general.alignment", 8, text("32")))),
        "alignment is '32'",
    ),
    "tensor name": (file(tensors=(tensor("a" * 64),)), "text of 64 bytes"),
    "tensor twice": (file(tensors=(tensor(), tensor(offset=32))), "there twice"),
    "no dimensions": (file(tensors=(tensor(dimensions=0),)), "0 dimensions"),
    "five dimensions": (file(tensors=(tensor(shape=(1,) * 5),)), "5 dimensions"),
    "zero dimension": (file(tensors=(tensor(shape=(4, 0)),)), "shape"),
    "product overflow": (file(tensors=(tensor(shape=(2**32, 2**32)),)), "shape"),
    "one huge dimension": (file(tensors=(tensor(shape=(2**63,)),)), "shape"),
    "tensor type": (file(tensors=(tensor(kind=4),)), "unknown type 4"),
    "partial block": (file(tensors=(tensor(shape=(4,), kind=8),)), "no multiple of 32"),
    "offset": (file(tensors=(tensor(offset=32),)), "at 32 instead of 0"),
    "offset beyond the end": (file(tensors=(tensor(offset=2**63),)), "instead of 0"),
    "overlap": (file(tensors=(tensor(), tensor("b"))), "at 0 instead of 32"),
    "data cut off": (file(data=15), "ends 1 bytes before"),
    "an adapter": (file((ARCHITECTURE, key("general.type", 8, text("adapter")))), "LoRA"),
    "a part without its number": (
        file(
            (
                ARCHITECTURE,
                key("split.count", 2, struct.pack("<H", 3)),
                key("split.no", 2, b"\0\0"),
            )
        ),
        "one of 3 parts",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused_by_name(path: Path, name: str) -> None:
    content, words = DAMAGED[name]
    path.write_bytes(content)
    with pytest.raises(WeightsError) as refused:
        read_header(path)
    assert words in refused.value.message
    assert str(path) in refused.value.message


def test_a_path_without_a_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(WeightsError, match="cannot be read"):
            read_header(path)


def test_a_model_is_no_adapter(model: Path) -> None:
    with pytest.raises(WeightsError, match="is a model, not a LoRA adapter"):
        read_header(model, adapter=True)


def part(
    number: int | None, count: int | None = 2, *, names: tuple[str, ...] = (), total: int | None = 2
) -> bytes:
    """One part of a model; `None` leaves a key out."""
    names = names or (f"part{number}",)
    keys = [
        *([] if number else [ARCHITECTURE]),
        *([] if number is None else [key("split.no", 2, struct.pack("<H", number))]),
        *([] if count is None else [key("split.count", 2, struct.pack("<H", count))]),
        *([] if total is None else [key("split.tensors.count", 5, struct.pack("<i", total))]),
    ]
    tensors = tuple(tensor(name, offset=32 * place) for place, name in enumerate(names))
    return file(tuple(keys), tensors, data=32 * len(names))


def two_parts(folder: Path) -> tuple[Path, Path]:
    return folder / "model-00001-of-00002.gguf", folder / "model-00002-of-00002.gguf"


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        (part(1), part(0), "00001-of-00002.gguf is part 2 of 2 .* swapped"),
        (part(0), part(0), "00002-of-00002.gguf is part 1 of 2 .* swapped"),
        (part(0), part(1, 3), "00002-of-00002.gguf is one of 3 parts by its header"),
        (part(0), file(), "00002-of-00002.gguf says nothing of parts"),
        (part(0, 3), part(1), "is one of 3 parts of a model; give the first part, named"),
        (part(0), part(1, names=("part0",)), "both hold the tensor part0"),
        (part(0), part(1, names=("a", "b")), r"hold 3 tensors, and it says 2"),
        (part(0, total=None), part(1), "does not say how many"),
        (part(None), part(1), "00001-of-00002.gguf says nothing of parts"),
        (file(), part(1), "00001-of-00002.gguf is by its name one of 2 parts"),
        (part(0, None), part(1), "00001-of-00002.gguf is by its name one of 2 parts"),
        (part(0, 1), part(1), "is one of 1 parts"),
    ],
)
def test_parts_that_do_not_belong_together(
    tmp_path: Path, one: bytes, two: bytes, words: str
) -> None:
    first, second = two_parts(tmp_path)
    first.write_bytes(one)
    second.write_bytes(two)
    with pytest.raises(WeightsError, match=words) as refused:
        read_header(first)
    assert str(tmp_path) in refused.value.message


def test_a_whole_model_may_be_the_one_part_of_one(tmp_path: Path) -> None:
    for number, content in enumerate((file(), part(0, 1, total=1))):
        path = tmp_path / f"{number}-00001-of-00001.gguf"
        path.write_bytes(content)
        assert read_header(path).shards == ()


@pytest.mark.parametrize("name", ["clip", "t5", "t5encoder", "wavtokenizer-dec", "llada"])
def test_what_writes_no_text(path: Path, name: str) -> None:
    path.write_bytes(file((key("general.architecture", 8, text(name)),)))
    with pytest.raises(WeightsError, match=rf"\({name}\), and no model that writes text; use"):
        read_header(path)


@pytest.mark.parametrize("kind", ["mmproj", "imatrix", "vocab"])
def test_files_that_are_no_models(path: Path, kind: str) -> None:
    path.write_bytes(file((ARCHITECTURE, key("general.type", 8, text(kind)))))
    with pytest.raises(WeightsError, match=f"a file of type '{kind}'"):
        read_header(path)


def test_a_model_in_parts(tmp_path: Path) -> None:
    first, second = two_parts(tmp_path)
    first.write_bytes(part(0))
    with pytest.raises(WeightsError, match=r"model-00002-of-00002\.gguf cannot be read"):
        read_header(first)
    second.write_bytes(part(1))
    assert read_header(first).parameters == 8
    with pytest.raises(WeightsError, match="give the first part"):
        read_header(second)


def judge(path: Path, content: bytes) -> None:
    """Reads `content` as a file; a WeightsError is the only failure there may be."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        read_header(path)
    except WeightsError:
        pass  # with its words: the class has no other way
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < MOST_BYTES


@QUICK
@given(data=st.data())
def test_no_truncation_gets_through(model: Path, path: Path, data: st.DataObject) -> None:
    whole = model.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(WeightsError):
        read_header(path)


@QUICK
@given(data=st.data())
def test_mutations_are_read_or_refused(model: Path, path: Path, data: st.DataObject) -> None:
    content = bytearray(model.read_bytes())
    # Most of the header, which ends before the weights do.
    place = st.integers(0, 24_000)
    for at, value in data.draw(
        st.lists(st.tuples(place, st.binary(min_size=1, max_size=8)), min_size=1, max_size=6)
    ):
        content[at : at + len(value)] = value
    judge(path, bytes(content))


@QUICK
@given(
    version=st.sampled_from([2, 3]),
    counts=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    rest=st.binary(max_size=256),
)
def test_noise_is_read_or_refused(
    path: Path, version: int, counts: tuple[int, int], rest: bytes
) -> None:
    judge(path, b"GGUF" + struct.pack("<IQQ", version, *counts) + rest)
