"""`run-container` up to the engine: a program of its name receives the words and the environment,
and what would run inside is read back by the server's own command line."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from fake_engines import EXIT_CODE, Call, Engines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from open_llm_server.cli import cli
from open_llm_server.config.merge import draft
from open_llm_server.config.options import given_flags
from open_llm_server.container_doors import FIELDS

HOSTILE = "\n$(touch pwned)`id`'\";|&\\ --privileged -v /:/host \r\n\té🐦%s${HOME}*"
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
UNKEPT = ("OPEN_LLM_", "HF_", "HUGGING_FACE_")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, a store, and no variables of whoever runs this."""
    for name in [*os.environ]:
        if name.startswith(UNKEPT) or name.lower() in PROXIES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def engines(clean: Path, monkeypatch: pytest.MonkeyPatch) -> Engines:
    (clean / "bin").mkdir()
    monkeypatch.setenv("PATH", str(clean / "bin"))
    return Engines(clean / "bin")


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "open_llm_server", "run-container", *words],
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def ran(engines: Engines, *words: str, **environ: str) -> Call:
    done = run(*words, **environ)
    assert done.returncode == EXIT_CODE, done.stderr
    return engines.call()


def dry(*words: str, engine: str = "docker") -> list[str]:
    """The words of `--dry-run`, read as a shell reads them."""
    options = ("--target-device=cpu", f"--container-engine={engine}", "--dry-run")
    done = CliRunner().invoke(cli, ["run-container", *options, *words], standalone_mode=False)
    assert done.exception is None, done.exception
    return shlex.split(done.stdout_bytes.decode())  # `stdout` changes line ends


def refused(*words: str, target: str = "cpu", **environ: str) -> str:
    done = run(
        *words, f"--target-device={target}", "--container-engine=docker", "--dry-run", **environ
    )
    assert done.returncode in (1, 2)
    assert not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


def inner(words: list[str]) -> list[str]:
    """What the image's entry point gets."""
    return words[words.index("start") :]


def parsed(words: list[str]) -> click.Context:
    """The context of `start`, as the server's own command line makes it of these words."""
    command = cli.get_command(click.Context(cli), "start")
    assert command is not None
    return command.make_context("start", words[1:])


def flags(words: list[str]) -> dict[str, Any]:
    """The flags of a `start`, but for those that say where it listens."""
    return {name: value for name, value in given_flags(parsed(words)).items() if name not in FIELDS}


def test_the_whole_command(engines: Engines, clean: Path) -> None:
    engines.add("docker", complaint="Cannot connect to the daemon\n")
    engines.add("podman")
    done = run("tiny,fake", "--target-device=cpu", "--top_k", "3", "--stop-sequence", HOSTILE)
    assert done.returncode == EXIT_CODE
    assert not done.stdout
    assert "docker is installed but does not answer: using podman" in done.stderr
    assert "Starting openllm-server/tiny:cpu with podman: http://127.0.0.1:5000" in done.stderr
    call = engines.call()
    argv = [word for word in call.argv if not word.startswith(("--user", "--userns"))]
    assert Path(argv[0]).name == "podman"
    assert argv[1:] == [
        *("run", "--rm", "--read-only", "--tmpfs=/tmp:rw,nosuid,nodev,noexec,size=1g,mode=1777"),
        *("--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=4096"),
        *("--stop-timeout=40", "--publish=127.0.0.1:5000:5000"),
        f"--mount=type=bind,source={clean}/store,target=/data/bentoml",
        *("openllm-server/tiny:cpu", "start", "tiny", "fake"),
        *("--top-k=3", f"--stop-sequence={HOSTILE}", "--port=5000", "--allowed-hosts=127.0.0.1"),
    ]
    assert (clean / "store").is_dir()
    assert not [*Path.cwd().iterdir()]


def test_secrets_stand_in_no_argument(engines: Engines) -> None:
    engines.add("docker")
    Path("a.pem").touch()
    words = (
        *("tiny,flan-t5", "--target-device=cpu", "--api-key=sk-one", "--api-key", "sk-two,3"),
        *("--tls-cert=a.pem", "--tls-key=a.pem", "--tls-key-password=sk- $(id)"),
    )
    environ = {"HF_TOKEN": "hf_secret", "OPEN_LLM_TINY_TOP_K": "5", "HTTPS_PROXY": "http://u:pw@p"}
    call = ran(engines, *words, **environ)
    assert not any(secret in word for word in call.argv for secret in ("sk-", "hf_", "pw@"))
    for name in ("OPEN_LLM_API_KEY", "HF_TOKEN", "OPEN_LLM_TINY_TOP_K", "HTTPS_PROXY"):
        assert call.argv.count(f"--env={name}") == 1
    assert call.environ["HF_TOKEN"] == "hf_secret"
    assert call.environ["OPEN_LLM_TLS_KEY_PASSWORD"] == "sk- $(id)"
    # read back as the server inside does
    got = draft(
        (), flags={}, sets=(), devices=(), configuration=None, door="flag", need_models=False,
        environ={"OPEN_LLM_API_KEY": call.environ["OPEN_LLM_API_KEY"]},
    )  # fmt: skip
    assert got.server.values["api_key"] == ["sk-one", "sk-two,3"]
    printed = run(*words, "--dry-run", **environ)
    assert printed.returncode == 0
    assert "sk-" not in printed.stdout + printed.stderr
    assert (
        "set OPEN_LLM_API_KEY and OPEN_LLM_TLS_KEY_PASSWORD before you run this" in printed.stderr
    )
    assert "takes OPEN_LLM_TINY_TOP_K, HTTPS_PROXY, HF_TOKEN from the environment" in printed.stderr


def test_a_token_that_is_only_in_its_file(engines: Engines, clean: Path) -> None:
    engines.add("docker")
    (clean / "hub/hub").mkdir(parents=True)
    (clean / "hub/token").write_text("hf_stored")
    assert "--env=HF_TOKEN" not in ran(engines, "tiny", "--target-device=cpu").argv
    # Whoever fetches nothing needs none, wherever it is.
    named = ran(engines, "tiny", "--target-device=cpu", HF_TOKEN="hf_named")
    assert "--env=HF_TOKEN" not in named.argv
    call = ran(engines, "flan-t5", "--target-device=cpu")
    assert "--env=HF_TOKEN" in call.argv
    assert call.environ["HF_TOKEN"] == "hf_stored"
    assert (
        f"--mount=type=bind,source={clean}/hub/hub,target=/data/huggingface/hub,readonly"
        in call.argv
    )


def test_variables(engines: Engines, clean: Path) -> None:
    engines.add("nerdctl")
    Path("p.txt").write_text("A prompt.")
    call = ran(
        engines,
        *("--target-device=cpu", "--no-mount-store"),
        OPEN_LLM_MODELS="tiny",
        OPEN_LLM_PROMPT="p.txt",
        OPEN_LLM_STOP_SEQUENCE=HOSTILE,
        OPEN_LLM_HOST="127.0.0.2",
        OPEN_LLM_PORT="80",
        OPEN_LLM_INSECURE="true",
        OPEN_LLM_ENDPOINT="http://elsewhere",
        OPEN_LLM_ALLOWED_HOSTS="models.example",
        OPEN_LLM_SEED="",
    )
    prompt = clean / "work/p.txt"
    about = [
        word for word in call.argv if word.startswith(("--env", "--publish", "--mount", "--vol"))
    ]
    assert about == [
        "--publish=127.0.0.2:80:5000",
        "--volume=open-llm-server:/data",
        f"--mount=type=bind,source={prompt},target={prompt},readonly",
        "--env=OPEN_LLM_STOP_SEQUENCE",
        f"--env=OPEN_LLM_PROMPT={prompt}",
    ]
    assert inner(call.argv) == [
        *("start", "tiny", "--port=5000"),
        *("--allowed-hosts=models.example", "--allowed-hosts=127.0.0.2"),
    ]
    assert call.environ["OPEN_LLM_STOP_SEQUENCE"] == HOSTILE
    assert not (clean / "store").exists()


def test_paths_are_made_absolute_wherever_they_stand(clean: Path) -> None:
    work = clean / "work"
    for name in ("q4.gguf", "lora.gguf", "a, b.gguf"):
        Path(name).touch()
    Path("c.yaml").write_text("models: [tiny]\nserver: {port: 6001, drain_timeout_s: 3.5}\n")
    words = dry(
        *("one=llama@./q4.gguf", "two=llama@./a\\, b.gguf", "--configuration", "c.yaml"),
        *("--lora", "lora.gguf", "--set", "two.lora=./lora.gguf"),
    )
    assert "--stop-timeout=14" in words
    assert inner(words) == [
        *("start", f"one=llama@{work}/q4.gguf", f"two=llama@{work}/a\\, b.gguf"),
        *(f"--lora={work}/lora.gguf", "--port=6001", "--allowed-hosts=127.0.0.1"),
        *(f"--configuration={work}/c.yaml", f'--set=two.lora=["{work}/lora.gguf"]'),
    ]
    sources = {"q4.gguf", "lora.gguf", "c.yaml"}
    for source in sources:
        assert f"--mount=type=bind,source={work}/{source},target={work}/{source},readonly" in words


def test_a_path_of_an_engine(engines: Engines) -> None:
    program = engines.add("podman")
    call = ran(engines, "tiny", "--target_device=gpu:0+1", f"--container_engine={program}")
    assert call.argv[0] == str(program)
    assert "--device=nvidia.com/gpu=1" in call.argv
    assert "openllm-server/tiny:cuda" in call.argv


def test_an_image_of_ones_own(engines: Engines) -> None:
    engines.add("docker", image=False)
    done = run("tiny", "--target-device=cpu", "--image=example.com/mine:1@sha256:ab")
    assert "is not here, and docker will try to pull it" in done.stderr
    assert engines.call().argv[-5:-3] == ["example.com/mine:1@sha256:ab", "start"]


@pytest.mark.parametrize(
    ("models", "device", "here", "taken"),
    [
        ("tiny", "cpu", "openllm-server/tiny:cpu-slim", "openllm-server/tiny:cpu-slim"),
        ("tiny", "gpu", "openllm-server/tiny:cuda-slim", "openllm-server/tiny:cuda-slim"),
        ("tiny", "cpu", "openllm-server/tiny:cpu", "openllm-server/tiny:cpu"),
        ("tiny", "cpu", True, "openllm-server/tiny:cpu"),
        ("tiny", "cpu", False, "openllm-server/tiny:cpu"),
        ("tiny,fake", "cpu", "openllm-server/tiny:cpu-slim", "openllm-server/tiny:cpu"),
        ("tiny-torch", "cpu", "openllm-server/tiny:cpu-slim", "openllm-server/tiny:cpu"),
    ],
)
def test_the_image_with_llama_cpp_alone(
    engines: Engines, models: str, device: str, here: bool | str, taken: str
) -> None:
    engines.add("docker", image=here)
    assert taken in ran(engines, models, f"--target-device={device}").argv


def test_no_engine() -> None:
    done = run("tiny", "--target-device=cpu", PATH="/nonexistent")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no container engine is installed here")


@pytest.mark.parametrize(
    ("words", "environ", "says"),
    [
        (["tiny", "--tpo-k=3"], {}, "did you mean --top-k?"),
        (["tiny", "--top-k=many"], {}, "--top-k"),
        (["tinny"], {}, "did you mean 'tiny'?"),
        ([], {}, "no model is named"),
        (["tiny"], {"OPEN_LLM_TOPK": "3"}, "did you mean 'OPEN_LLM_TOP_K'?"),
        (["tiny", "--host=0.0.0.0"], {}, "no API key is set"),
        (["tiny", "--device=gpu:0"], {}, "say --target-device=gpu"),
        (["tiny"], {"OPEN_LLM_TINY_DEVICE": "gpu"}, "say --target-device=gpu"),
        (["tiny", "--lora=nope.gguf"], {}, "there is no file 'nope.gguf'"),
        (["llama@./nope.gguf"], {}, "there is no file or folder './nope.gguf'"),
        (["tiny", "--configuration=nope.yaml"], {}, "there is no configuration file"),
        (["tiny", "--image=--privileged"], {}, "is not the name of an image"),
        (["tiny", "--image="], {}, "is not the name of an image"),
        (["flan-t5@store:x", "--no-mount-store"], {}, "leave that out"),
    ],
)
def test_what_is_refused_before_anything_starts(
    words: list[str], environ: dict[str, str], says: str
) -> None:
    assert says in refused(*words, **environ)


def test_more_gpus_than_the_container_gets() -> None:
    assert "there is no gpu:1" in refused("tiny", "--device=gpu:1", target="gpu:3")
    assert "--target-device 'tpu'" in refused("tiny", target="tpu")


def test_paths_that_an_engine_cannot_be_told(clean: Path) -> None:
    (clean / "work/a:b").mkdir()
    Path("a:b/p.txt").touch()
    path = clean / "work/a:b/p.txt"
    mount = f"--mount=type=bind,source={path},target={path},readonly"
    assert mount in dry("tiny", "--prompt=a:b/p.txt")
    with pytest.raises(AssertionError, match="nerdctl cannot mount"):
        dry("tiny", "--prompt=a:b/p.txt", engine="nerdctl")


def test_nul(clean: Path) -> None:
    with pytest.raises(AssertionError, match="NUL"):
        dry("tiny", "--prompt=a\0b c")


# Every kind of option that holds a free text.
GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "--stop-sequence": st.lists(TEXTS.filter(bool), min_size=1, max_size=3),
        "--prompt": TEXTS.filter(
            lambda text: not text.endswith((".txt", ".md", ".text", ".prompt"))
        ),
        "--set": st.builds("tiny.stop_sequence={}".format, TEXTS.filter(bool)),
        "--top-k": st.integers(0, 100),
        "--seed": st.integers(-5, 5),
        "--force": st.booleans(),
    },
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=GIVEN)
def test_any_text_comes_through_a_shell(given: dict[str, Any]) -> None:
    words = spelled(given)
    printed = dry("tiny", *words)
    assert flags(inner(printed)) == flags(["start", "tiny", *words])
    assert parsed(inner(printed)).params["sets"] == parsed(["start", *words]).params["sets"]


@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(given=GIVEN)
def test_any_text_reaches_the_engine(engines: Engines, given: dict[str, Any]) -> None:
    engines.add("docker")
    words = spelled({**given, "--stop-sequence": [HOSTILE, *given.get("--stop-sequence", ())]})
    call = ran(engines, "tiny", "--target-device=cpu", *words)
    assert flags(inner(call.argv)) == flags(["start", "tiny", *words])
    assert parsed(inner(call.argv)).params["sets"] == parsed(["start", *words]).params["sets"]
    assert sorted(path.name for path in Path.cwd().iterdir()) == []


def spelled(given: dict[str, Any]) -> list[str]:
    words = []
    for flag, value in given.items():
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [f"{flag}={text}" for text in (value if isinstance(value, list) else [value])]
    return words


def test_json(clean: Path) -> None:
    """A list that begins like JSON, in a text that is made absolute."""
    Path("[a].gguf").touch()
    (word,) = [word for word in dry("tiny", "--set=tiny.lora=[a].gguf") if "--set" in word]
    assert json.loads(word.partition("lora=")[2]) == [str(clean / "work/[a].gguf")]
