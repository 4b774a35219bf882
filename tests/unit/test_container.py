"""The words that start a container, for each engine, as tables."""

from __future__ import annotations

import csv
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_llm_server.container import (
    ENGINES,
    ContainerRun,
    EngineName,
    Mount,
    Publish,
    Target,
    argv,
    environment,
)
from open_llm_server.errors import ConfigurationError

GUARD = [
    "--read-only",
    "--tmpfs=/tmp:rw,nosuid,nodev,noexec,size=1g,mode=1777",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--pids-limit=4096",
    "--stop-timeout=40",
]
FULL: dict[str, Any] = {
    "image": "openllm-server/llama:cuda",
    "words": ("start", "llama", "--top-k=3"),
    "target": Target("gpu", ("0", "1")),
    "publish": (Publish("127.0.0.1", 80, 5000), Publish("::1", 5001, 5001)),
    "mounts": (
        Mount("/home/ann/bentoml", "/data/bentoml", read_only=False),
        Mount("/home/ann/my models/q4.gguf", "/home/ann/my models/q4.gguf"),
    ),
    "passed": ("OPEN_LLM_API_KEY", "HF_TOKEN"),
    "variables": {"OPEN_LLM_PROMPT": "/home/ann/p.txt"},
    "secrets": {"OPEN_LLM_API_KEY": "hidden"},
    "terminal": True,
}
MIDDLE = [
    "--publish=127.0.0.1:80:5000",
    "--publish=[::1]:5001:5001",
    "--mount=type=bind,source=/home/ann/bentoml,target=/data/bentoml",
    "--mount=type=bind,source=/home/ann/my models/q4.gguf,target=/home/ann/my models/q4.gguf"
    ",readonly",
    "--env=OPEN_LLM_API_KEY",
    "--env=HF_TOKEN",
    "--env=OPEN_LLM_PROMPT=/home/ann/p.txt",
    "openllm-server/llama:cuda",
    *("start", "llama", "--top-k=3"),
]
TABLE: list[tuple[EngineName, dict[str, Any], list[str]]] = [
    ("docker", {"user": "1000:1000"}, ["--user=1000:1000", '--gpus="device=0,1"']),
    ("nerdctl", {"user": "0:0"}, ["--user=0:0", '--gpus="device=0,1"']),
    (
        "podman",
        {"user": "1000:1000", "keep_id": True},
        [
            *("--userns=keep-id", "--user=1000:1000"),
            *("--device=nvidia.com/gpu=0", "--device=nvidia.com/gpu=1"),
        ],
    ),
]


def plain(engine: EngineName = "podman", **changes: Any) -> ContainerRun:
    run = ContainerRun(engine=engine, executable=engine, image="tiny", words=("start", "tiny"))
    return dataclasses.replace(run, **changes)


@pytest.mark.parametrize(("engine", "changes", "own"), TABLE, ids=lambda each: str(each)[:8])
def test_everything_at_once(engine: EngineName, changes: dict[str, Any], own: list[str]) -> None:
    words = argv(plain(engine, **FULL, **changes))
    assert words == [engine, "run", "--rm", "--interactive", "--tty", *GUARD, *own, *MIDDLE]


@pytest.mark.parametrize("engine", ENGINES)
def test_next_to_nothing(engine: EngineName) -> None:
    assert argv(plain(engine)) == [engine, "run", "--rm", *GUARD, "tiny", "start", "tiny"]


@pytest.mark.parametrize(
    ("engine", "gpus", "words"),
    [
        ("docker", (), ["--gpus=all"]),
        ("nerdctl", (), ["--gpus=all"]),
        ("podman", (), ["--device=nvidia.com/gpu=all"]),
        ("docker", ("3",), ["--gpus=device=3"]),
        ("nerdctl", ("3",), ["--gpus=device=3"]),
        ("podman", ("GPU-a-b",), ["--device=nvidia.com/gpu=GPU-a-b"]),
    ],
)
def test_gpus(engine: EngineName, gpus: tuple[str, ...], words: list[str]) -> None:
    got = argv(plain(engine, target=Target("gpu", gpus)))
    assert got == [engine, "run", "--rm", *GUARD, *words, "tiny", "start", "tiny"]


def test_the_rest() -> None:
    words = argv(plain(volume=True, unlabelled=True, stop_timeout_s=99, executable="/opt/podman"))
    assert words[:3] == ["/opt/podman", "run", "--rm"]
    assert {"--volume=open-llm-server:/data", "--security-opt=label=disable"} < {*words}
    assert "--stop-timeout=99" in words


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("cpu", Target("cpu")),
        ("gpu", Target("gpu")),
        ("gpu:all", Target("gpu")),
        ("gpu:0", Target("gpu", ("0",))),
        ("gpu:0,1", Target("gpu", ("0", "1"))),
        ("gpu:0+12", Target("gpu", ("0", "12"))),
        ("gpu:GPU-3a23c669-1f69,MIG-0b", Target("gpu", ("GPU-3a23c669-1f69", "MIG-0b"))),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert Target.parse(text) == target


@pytest.mark.parametrize(
    "text",
    ["", "cpu:0", "gpu:", "gpu:0,", "gpu:0,0", "gpu:-1", "gpu:x", "tpu", "gpu:0;id"],
)
def test_no_targets(text: str) -> None:
    with pytest.raises(ConfigurationError, match="want cpu, gpu"):
        Target.parse(text)


@pytest.mark.parametrize("image", ["", "-v/:/host", "a b", "a\n", "a;id", "$(id)", "--", "é"])
def test_no_images(image: str) -> None:
    with pytest.raises(ConfigurationError, match="not the name of an image"):
        argv(plain(image=image))


@pytest.mark.parametrize("engine", ["docker", "podman"])
@pytest.mark.parametrize(
    "path", ["/a:b", "/a,b", '/a"b', '/"', "/a b", "/-x", "/é", "/a=b", "/$(id);'", "/a\\,b", "/🐦"]
)
def test_odd_paths_are_one_field(engine: EngineName, path: str) -> None:
    words = argv(plain(engine, mounts=(Mount(path, path),)))
    (word,) = (word for word in words if word.startswith("--mount="))
    # the dialect of these engines is that of Go's encoding/csv, and this one
    (fields,) = csv.reader([word.removeprefix("--mount=")], strict=True)
    assert fields == ["type=bind", f"source={path}", f"target={path}", "readonly"]


@pytest.mark.parametrize("path", ["/a:b", "/a,b"])
def test_nerdctl_cannot_be_told_of_them(path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"comma or a colon.*--container-engine"):
        argv(plain("nerdctl", mounts=(Mount(path, path),)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("path", ["/a\nb", "/a\rb", "/a\tb", "/a\0b"])
def test_control_characters_are_refused(engine: EngineName, path: str) -> None:
    with pytest.raises(ConfigurationError, match="control character"):
        argv(plain(engine, mounts=(Mount(path, path),)))


def test_no_nul() -> None:
    with pytest.raises(ConfigurationError, match="NUL"):
        argv(plain(words=("start", "tiny", "--prompt=a\0b")))


TEXTS = st.text(st.characters(exclude_characters="\0"))


@given(st.lists(TEXTS), st.sampled_from(ENGINES))
def test_any_words_stay_as_they_are(words: list[str], engine: EngineName) -> None:
    got = argv(plain(engine, words=tuple(words)))
    assert got[len(got) - len(words) - 1 :] == ["tiny", *words]


@given(st.text(min_size=12))
def test_secrets_are_in_the_environment_only(secret: str) -> None:
    run = plain(passed=("OPEN_LLM_API_KEY",), secrets={"OPEN_LLM_API_KEY": secret})
    assert not any(secret in word for word in argv(run))
    assert repr(secret) not in repr(run)
    environ = {"OPEN_LLM_API_KEY": "old", "PATH": "/bin"}
    assert environment(run, environ) == {"OPEN_LLM_API_KEY": secret, "PATH": "/bin"}
