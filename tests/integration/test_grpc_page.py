"""docs/grpc.md: its commands, run as written but for the ports."""

from __future__ import annotations

import json
import re
import shlex
import threading
from pathlib import Path
from typing import Any

import grpc
import open_llm_client
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from running import HANG_S, StartServer
from shells import Person

PAGE = Path(__file__).resolve().parents[2] / "docs" / "grpc.md"
LINES = [
    line.split("  #")[0].strip()
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
STARTS = [line for line in LINES if line.startswith("open-llm-server start ")]
ASKS = [line for line in LINES if line.startswith("grpcurl ")]
pytestmark = pytest.mark.server


def test_all_of_them_are_run_here() -> None:
    assert {*LINES} == {*STARTS, *ASKS} and STARTS and ASKS


@pytest.mark.parametrize("line", STARTS)
def test_the_start_lines(line: str, tmp_path: Path) -> None:
    command = line.replace("--grpc-port 5001", "--grpc-port 0") + " --port 0"
    with Person(tmp_path, {}).begin(command) as process:
        watchdog = threading.Timer(HANG_S, process.kill)
        watchdog.start()
        try:
            assert process.stderr
            said = next(line for line in process.stderr if "Open LLM server on" in line)
            (url,) = re.findall(r"grpc://[0-9.:]+", said)
            with open_llm_client.create(url) as client:
                assert client.chat("Hello").message
            process.terminate()
            process.communicate()
        finally:
            watchdog.cancel()
            process.kill()
    assert process.returncode == 0


def test_the_questions(server: StartServer) -> None:
    """What grpcurl does: it asks the server for the proto, and reads JSON by it."""
    url = server("tiny", grpc_port=0).server.grpc_url
    assert url
    with grpc.insecure_channel(url.removeprefix("grpc://")) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        for line in ASKS:
            words = shlex.split(line)
            service, _, name = words[-1].partition("/")
            method = pool.FindServiceByName(service).FindMethodByName(name)
            request = message_factory.GetMessageClass(method.input_type)()
            json_format.ParseDict(json.loads(words[words.index("-d") + 1]), request)
            answer = message_factory.GetMessageClass(method.output_type)
            ways: dict[bool, Any] = {True: channel.unary_stream, False: channel.unary_unary}
            call = ways[method.server_streaming](
                f"/{service}/{name}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=answer.FromString,
            )
            given = call(request, timeout=HANG_S)
            answers = [*given] if method.server_streaming else [given]
            assert "text" in str(answers) or answers[0].message
