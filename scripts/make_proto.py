"""Makes the Python form of the proto for the server and the client; run it as `make proto`.

The classes are built when the module is imported, from the descriptor that the compiler made: so
they fit every release of protobuf, and two packages in one process may bring different versions.
With `--pin` it notes what is new in the proto; from then on a test sees to it that this stays.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
PROTO = Path("open_llm") / "v1" / "open_llm.proto"
SOURCES = ROOT / "open_llm_server" / "rpc" / "proto"
TARGETS = (
    ROOT / "open_llm_server" / "rpc" / "v1.py",
    ROOT / "client" / "open_llm_client" / "_v1.py",
)
PINNED = ROOT / "tests" / "rpc" / "open_llm_v1.json"
"""What clients of any age rely on: every name of the proto, and what it stands for."""
_MODULE = '''"""The messages of open_llm/v1/open_llm.proto. Made by `make proto`; do not edit."""

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

SERIALIZED = (
{lines}
)
# A pool of its own: another package in this process may bring another version of the file.
POOL = descriptor_pool.DescriptorPool()
POOL.AddSerializedFile(SERIALIZED)
DESCRIPTOR = POOL.FindFileByName("{name}")

{classes}
'''
_CLASS = "{name} = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name[{name!r}])"
_ENUM = "{name} = enum_type_wrapper.EnumTypeWrapper(DESCRIPTOR.enum_types_by_name[{name!r}])"
_WIDTH = 60
_BESIDE_STUB = "SERIALIZED: bytes\nPOOL: _descriptor_pool.DescriptorPool\n"


def make() -> dict[Path, str]:
    """The text of every file that is made, by its path. Raises RuntimeError."""
    with tempfile.TemporaryDirectory() as folder:
        serialized, stub = _compile(Path(folder))
    return {
        path: text
        for target in TARGETS
        for path, text in ((target, _module(serialized)), (target.with_suffix(".pyi"), stub))
    }


def _compile(folder: Path) -> tuple[bytes, str]:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    descriptors = folder / "descriptors"
    includes = Path(grpc_tools.__file__).with_name("_proto")
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={SOURCES}",
            f"--proto_path={includes}",
            f"--descriptor_set_out={descriptors}",
            f"--pyi_out={folder}",
            os.fspath(PROTO),
        ]
    )
    if code:
        raise RuntimeError(f"protoc left with {code}; it has said why")
    (file,) = FileDescriptorSet.FromString(descriptors.read_bytes()).file
    stub = (folder / PROTO.parent / "open_llm_pb2.pyi").read_text()
    stub = re.sub(r"\b_Mapping(?= \||\])", "_Mapping[str, object]", stub)
    head, mark, rest = stub.partition("DESCRIPTOR:")
    head += "from google.protobuf import descriptor_pool as _descriptor_pool\n"
    return file.SerializeToString(deterministic=True), f"{head}{_BESIDE_STUB}{mark}{rest}"


def _module(serialized: bytes) -> str:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    file = FileDescriptorProto.FromString(serialized)
    enums = [
        line
        for enum in file.enum_type
        for line in (
            _ENUM.format(name=enum.name),
            *(f"{value.name} = {value.number}" for value in enum.value),
        )
    ]
    messages = [_CLASS.format(name=message.name) for message in file.message_type]
    pieces = [serialized[at : at + _WIDTH] for at in range(0, len(serialized), _WIDTH)]
    return _MODULE.format(
        lines="\n".join(f"    {piece!r}" for piece in pieces),
        name=PROTO.as_posix(),
        classes="\n".join([*enums, *messages]),
    )


def described(file: Any) -> dict[str, str]:
    """Every message, field, enum value and method of a file's descriptor, and what it is."""
    found: dict[str, str] = {file.package: "package"}
    for message in file.message_types_by_name.values():
        found |= dict(_message(message))
    for enum in file.enum_types_by_name.values():
        found |= {f"{enum.name}.{value.name}": f"= {value.number}" for value in enum.values}
    for service in file.services_by_name.values():
        for method in service.methods:
            sent = ("stream " if method.client_streaming else "") + method.input_type.name
            given = ("stream " if method.server_streaming else "") + method.output_type.name
            found[f"{service.name}.{method.name}"] = f"({sent}) returns ({given})"
    return found


def broken(pinned: dict[str, str], now: dict[str, str]) -> list[str]:
    """What is pinned and is not so any more, in words."""
    return [
        f"{name} was `{what}` and is {f'`{now[name]}`' if name in now else 'gone'}"
        for name, what in pinned.items()
        if now.get(name) != what
    ]


def pin() -> None:
    """Notes what is new. Raises SystemExit where something pinned is gone or changed."""
    target = runpy.run_path(os.fspath(TARGETS[0]))
    now = described(target["DESCRIPTOR"])
    pinned = json.loads(PINNED.read_text()) if PINNED.exists() else {}
    if faults := broken(pinned, now):
        sys.exit("clients rely on these; leave them as they were:\n" + "\n".join(faults))
    PINNED.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    print(f"wrote {PINNED.relative_to(ROOT)}")


def _message(message: Any) -> Iterator[tuple[str, str]]:
    yield message.name, "message"
    for field in message.fields:
        oneof = field.containing_oneof
        if field.is_repeated:
            label = "repeated "
        elif oneof and not oneof.name.startswith("_"):
            label = f"oneof {oneof.name} "
        else:
            label = "optional " if field.has_presence else ""
        yield f"{message.name}.{field.name}", f"{label}{_kind(field)} = {field.number}"


def _kind(field: Any) -> str:
    named = field.message_type or field.enum_type
    if named:
        return str(named.name)
    names = (name for name in vars(type(field)) if name.startswith("TYPE_"))
    kind: str = next(name for name in names if getattr(field, name) == field.type)
    return kind.removeprefix("TYPE_").lower()


def main() -> None:
    for path, text in make().items():
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")
    if "--pin" in sys.argv[1:]:
        pin()


if __name__ == "__main__":
    main()
