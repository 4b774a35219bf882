"""The proto: what was made of it is up to date, and clients of any age can go on with it."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from rpc_calls import REQUESTS, serving

from open_llm_server.rpc import servicer, v1

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "make_proto.py"))
PINNED: dict[str, str] = json.loads(SCRIPT["PINNED"].read_text())
UNKNOWN = b"\xfa\x7f\x05later" + b"\xf8\x7f\x2a" + b"\xf1\x7f" + bytes(8)
"""Fields 2047, 2046 and so on, of several kinds, that no version has yet."""


def test_the_modules_are_what_is_made_of_the_proto_now() -> None:
    for path, text in SCRIPT["make"]().items():
        same = path.read_text() == text
        assert same, f"{path.relative_to(ROOT)} is not up to date; run `make proto`"


def test_nothing_that_clients_rely_on_is_gone_or_changed() -> None:
    broken = SCRIPT["broken"](PINNED, SCRIPT["described"](v1.DESCRIPTOR))
    assert not broken, "clients rely on these; leave them as they were:\n" + "\n".join(broken)


def test_what_is_new_is_pinned() -> None:
    new = SCRIPT["described"](v1.DESCRIPTOR).keys() - PINNED.keys()
    assert not new, f"run `python scripts/make_proto.py --pin` to keep {sorted(new)}"


def changed(change: Any) -> dict[str, str]:
    """The description of our file after `change`."""
    file = FileDescriptorProto.FromString(v1.SERIALIZED)
    change(file)
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    described: dict[str, str] = SCRIPT["described"](pool.FindFileByName(file.name))
    return described


def message(file: FileDescriptorProto, name: str) -> Any:
    return next(one for one in file.message_type if one.name == name)


def renumber(file: FileDescriptorProto) -> None:
    message(file, "Usage").field[0].number = 99


def retype(file: FileDescriptorProto) -> None:
    message(file, "Usage").field[0].type = 5  # int32


def repeat(file: FileDescriptorProto) -> None:
    message(file, "Usage").field[0].label = 3


def remove(file: FileDescriptorProto) -> None:
    del message(file, "Usage").field[0]


def require(file: FileDescriptorProto) -> None:
    """Unset and zero cannot be told apart any more."""
    field = message(file, "CompleteRequest").field[3]
    field.ClearField("proto3_optional")
    field.ClearField("oneof_index")
    del message(file, "CompleteRequest").oneof_decl[2]


def stream(file: FileDescriptorProto) -> None:
    file.service[0].method[0].server_streaming = True


def withdraw(file: FileDescriptorProto) -> None:
    del file.service[0].method[0]


def recount(file: FileDescriptorProto) -> None:
    file.enum_type[0].value[2].number = 7


@pytest.mark.parametrize(
    "change", [renumber, retype, repeat, remove, require, stream, withdraw, recount]
)
def test_what_breaks_clients_is_noticed(change: Any) -> None:
    (fault,) = SCRIPT["broken"](PINNED, changed(change))
    assert " was `" in fault


def add(file: FileDescriptorProto) -> None:
    field = copy.deepcopy(message(file, "Usage").field[0])
    field.name, field.json_name, field.number = "later", "later", 99
    message(file, "Usage").field.append(field)


def test_what_is_added_breaks_nobody() -> None:
    now = changed(add)
    assert SCRIPT["broken"](PINNED, now) == []
    assert now.keys() - PINNED.keys() == {"Usage.later"}


def test_every_method_of_the_proto_is_served() -> None:
    methods = {name.removeprefix("OpenLLM.") for name in PINNED if name.startswith("OpenLLM.")}
    assert methods == set(servicer.METHODS) == set(REQUESTS)


def nested(name: str) -> bytes:
    """A good request with unknown fields at every level."""
    sampling = v1.Sampling.FromString(v1.Sampling(seed=3).SerializeToString() + UNKNOWN)
    turn = v1.Message.FromString(v1.Message(role="user", content="a").SerializeToString() + UNKNOWN)
    inner = v1.TokenIds.FromString(v1.TokenIds(ids=[1]).SerializeToString() + UNKNOWN)
    item = v1.EmbedInput.FromString(v1.EmbedInput(token_ids=inner).SerializeToString() + UNKNOWN)
    made: dict[str, Any] = {
        "Chat": v1.ChatRequest(messages=[turn], sampling=sampling),
        "Complete": v1.CompleteRequest(prompt="a", sampling=sampling),
        "Embed": v1.EmbedRequest(input=[item]),
        "ListModels": v1.ListModelsRequest(),
    }
    data: bytes = made[name.removesuffix("Stream")].SerializeToString()
    return data + UNKNOWN


async def test_fields_of_other_versions_are_passed_over() -> None:
    async with serving() as wire:
        for name in REQUESTS:
            assert await wire.whole(name, nested(name)), name
