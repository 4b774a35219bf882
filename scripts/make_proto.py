"""Makes the Python form of the proto for the server and the client; run it as `make proto`.

The classes are built when the module is imported, from the descriptor that the compiler made: so
they fit every release of protobuf, and two packages in one process may bring different versions.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
PROTO = Path("open_llm") / "v1" / "open_llm.proto"
SOURCES = ROOT / "open_llm_server" / "rpc" / "proto"
TARGETS = (
    ROOT / "open_llm_server" / "rpc" / "v1.py",
    ROOT / "client" / "open_llm_client" / "_v1.py",
)
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


def main() -> None:
    for path, text in make().items():
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
