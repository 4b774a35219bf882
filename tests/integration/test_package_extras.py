"""What is said where an extra is missing, in environments that really lack it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import threading

import checkpoints
import environments
import ggufs
import pytest
import torch
from environments import SERVER, Environment
from running import HANG_S
from safetensors.torch import load_file

from open_llm_server.engine.torch_checkpoint import WEIGHTS

LLAMA_CPP = (
    r"needs llama-cpp-python, not installed here \(.*\); run: pip install '{}\[llama-cpp\]'$"
)
TORCH = r"needs torch.*, not installed here; run: pip install '{}\[torch\]'$"
GRPC = r"needs grpcio.* and cryptography, not installed here; run: pip install '{}\[grpc\]'$"
COMMANDS = [
    ("start tiny", "tiny", LLAMA_CPP),
    ("start llama@./model.gguf", "llama", LLAMA_CPP),
    ("start llama@hub/not-here", "llama", LLAMA_CPP),
    ("start flan-t5@./t5", "flan-t5", TORCH),
    ("start fake,mine=flan-t5", "mine", TORCH),
    ("start tiny-torch", "tiny-torch", TORCH),
    ("start fake --grpc-port 0", "gRPC", GRPC),
    ("start fake --grpc", "gRPC", GRPC),
    ("perplexity tiny text.txt", "tiny", LLAMA_CPP),
    ("perplexity pythia text.txt", "pythia", TORCH),
    ("fit tiny", "tiny", LLAMA_CPP),
    ("fit flan-t5@./t5", "flan-t5", TORCH),
    ("import llama@./model.gguf --quantize q8_0", "--quantize q8_0", LLAMA_CPP),
    ("import flan-t5@./t5 --quantize int8", "--quantize int8", TORCH),
    ("import pythia@./pickled --convert-pickles", "--convert-pickles", TORCH),
]
RELEASES = {
    "torch": "2.9.1+cpu",
    "transformers": "4.57.1",
    "llama-cpp-python": "0.3.9",
    "grpcio": "1.60.0",
}
OTHER_RELEASES = [
    (
        "start tiny-torch",
        "tiny-torch needs torch>=2.10, and 2.9.1+cpu is installed; "
        "transformers<6,>=5.10, and 4.57.1",
    ),
    ("perplexity tiny text.txt", "tiny needs llama-cpp-python==0.3.36, and 0.3.9"),
    ("start fake --grpc-port 0", "gRPC needs grpcio>=1.71, and 1.60.0"),
    (
        "import pythia@./pickled --convert-pickles",
        "--convert-pickles needs torch>=2.10, and 2.9.1+cpu",
    ),
    (
        "import llama@./model.gguf --quantize q4_k_m",
        "--quantize q4_k_m needs llama-cpp-python==0.3.36, and 0.3.9",
    ),
]
FROM_PYTHON = """
import open_llm_server
for name in ("tiny", "minilm"):
    try:
        open_llm_server.start(name, port=0)
    except open_llm_server.errors.StartError as error:
        print(error)
"""
SERVICE = """
import bentoml
from open_llm_server.{module} import get_runner

svc = bentoml.legacy.Service("mine", runners=[get_runner()])
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """With files to name on the command line."""
    made = environments.installed(tmp_path_factory.getbasetemp())
    if not (made.work / "t5").exists():
        checkpoints.make_t5(made.work / "t5")
        checkpoints.make_gpt_neox(made.work / "pickled")
        whole = made.work / "pickled" / WEIGHTS
        torch.save(load_file(whole), whole.with_name("pytorch_model.bin"))
        whole.unlink()
        ggufs.small(made.work).rename(made.work / "model.gguf")
        (made.work / "text.txt").write_text("One text, and not a long one.\n")
    return made


def told(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command which cannot work leaves behind it."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert not re.search(r"Traceback|loading \.\.\.|copying", done.stderr), done.stderr
    *news, line = done.stderr.splitlines()
    assert all(one.startswith("resolving") for one in news), news
    return line


@pytest.mark.parametrize(("words", "who", "needs"), COMMANDS, ids=[line for line, *_ in COMMANDS])
def test_a_missing_extra(bare: Environment, words: str, who: str, needs: str) -> None:
    line = told(bare.run(SERVER, *shlex.split(words)))
    assert re.match(f"error: {re.escape(who)} {needs.format(SERVER)}", line), line
    if needs is LLAMA_CPP:
        assert "docs/installing.md" in line and "make setup" in line


@pytest.mark.parametrize("words", ["query Hello", "chat"])
def test_grpc_for_the_commands_that_ask(bare: Environment, words: str) -> None:
    line = told(bare.run(SERVER, *words.split(), "--url", "grpc://127.0.0.1:9"))
    assert line.startswith("error: grpc:// needs packages that are not here (grpc)")
    assert line.endswith("pip install 'open-llm-client[grpc]'")


def test_nothing_was_kept_of_an_import_that_could_not_end(bare: Environment) -> None:
    assert bare.run(SERVER, "models", "list", "--local").stdout.count("\n") <= 1


def test_safetensors_need_no_conversion(bare: Environment) -> None:
    """What was not noticed is not asked for."""
    done = bare.run(SERVER, "import", "flan-t5@./t5", "--convert-pickles")
    assert done.returncode == 0, done.stderr
    assert bare.run(SERVER, "models", "rm", "--yes", "t5").returncode == 0


@pytest.fixture(scope="module")
def dated(bare: Environment, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """With everything, in releases that this server does not work with."""
    base = tmp_path_factory.getbasetemp()
    made = environments.make(base, tmp_path_factory.mktemp("dated"), "all")
    for name, version in RELEASES.items():
        made.pretend(name, version)
    for path in bare.work.iterdir():
        if not (made.work / path.name).exists():
            (made.work / path.name).symlink_to(path)
    return made


@pytest.mark.parametrize(("words", "needs"), OTHER_RELEASES)
def test_another_release_than_is_served(dated: Environment, words: str, needs: str) -> None:
    line = told(dated.run(SERVER, *shlex.split(words)))
    assert line.startswith(f"error: {needs} is installed"), line
    assert re.search(rf"; run: pip install '{SERVER}\[[\w-]+\]'$", line), line


def test_from_python_it_is_one_line_too(bare: Environment) -> None:
    done = bare.run("python", "-c", FROM_PYTHON)
    assert done.returncode == 0, done.stderr
    for line, needs in zip(done.stdout.splitlines(), (LLAMA_CPP, TORCH), strict=True):
        assert re.match(rf"\w+ {needs.format(SERVER)}", line), line


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.server
@pytest.mark.parametrize(("module", "needs"), [("tiny", LLAMA_CPP), ("flan_t5", TORCH)])
def test_a_service_of_ones_own(bare: Environment, module: str, needs: str) -> None:
    """Its runner says it, and leaves; the service can be built where its engines are not."""
    (bare.work / f"{module}_service.py").write_text(SERVICE.format(module=module))
    with subprocess.Popen(
        [
            *(bare.python, "-W", "ignore", "-m", "bentoml", "serve", f"{module}_service:svc"),
            *("--host", "127.0.0.1", "--port", str(free_port()), "--api-workers", "1"),
        ],
        cwd=bare.work,
        env=bare.variables,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        watchdog = threading.Timer(2 * HANG_S, process.kill)
        watchdog.start()
        try:
            assert process.stderr
            seen = []
            for line in process.stderr:
                seen.append(line)
                if line.startswith("error: "):
                    break
            process.send_signal(signal.SIGTERM)
            process.communicate()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            watchdog.cancel()
    assert re.search(needs.format(SERVER), seen[-1].rstrip()), seen
    assert not any("Traceback" in line for line in seen)
