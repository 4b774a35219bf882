"""What an image holds and says of itself, read by podman."""

from __future__ import annotations

import re

import pytest
from podman_engine import IMAGE, Podman

from open_llm_server import __version__

pytestmark = pytest.mark.server
MOST_BYTES = 350e6


def inside(podman: Podman, *words: str) -> str:
    """What a command says in a container of the image."""
    return podman("run", "--rm", "--read-only", "--entrypoint", words[0], IMAGE, *words[1:])


def test_what_it_says_of_itself(podman: Podman) -> None:
    image = podman.inspect("image", IMAGE)
    config = image["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["tini", "--", "open-llm-server"]
    assert config["Cmd"] == ["start"]
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert "open_llm_server.healthcheck" in str(image["Healthcheck"])
    assert "OPEN_LLM_MODELS=tiny" in config["Env"]
    assert image["Labels"]["org.opencontainers.image.version"] == __version__
    assert image["Size"] <= MOST_BYTES


def test_it_has_no_build_tools(podman: Podman) -> None:
    script = "for tool in gcc g++ cc make cmake pip pip3 git curl; do command -v $tool; done; true"
    assert inside(podman, "sh", "-c", script) == ""


def test_it_has_no_weights_but_the_built_in_ones(podman: Podman) -> None:
    names = inside(
        podman,
        *("sh", "-c"),
        "find / -xdev -type f -size +64k \\( -name '*.gguf' -o -name '*.safetensors' "
        "-o -name '*.bin' -o -name '*.pt' \\) 2>/dev/null; true",
    ).split()
    assert [name.rpartition("/open_llm_server/")[2] for name in names] == [
        "models/tiny/tiny-q8_0.gguf"
    ]


def test_it_has_no_secrets(podman: Podman) -> None:
    """Neither what the build was told of this machine's indexes, nor keys of anybody."""
    image = podman.inspect("image", IMAGE)
    told = str(image["Config"]) + str(image["History"])
    for word in ("PIP_INDEX", "PIP_EXTRA", "PIP_FIND_LINKS", "PIP_CERT", "TOKEN", "PASSWORD"):
        assert word not in told
    found = inside(
        podman,
        *("sh", "-c"),
        "find / -xdev \\( -name pip.conf -o -name .netrc -o -name '*.key' -o -name id_rsa "
        "-o -name .git -o -name 'token' \\) 2>/dev/null; "
        "grep -rlE 'BEGIN [A-Z ]*PRIVATE KEY' /etc /home /root /data /tmp /opt/open-llm-server/bin "
        "2>/dev/null; true",
    )
    assert found == ""
    assert inside(podman, "ls", "/opt").split() == ["open-llm-server"]


def test_any_user_may_run_it(podman: Podman) -> None:
    said = podman("run", "--rm", "--read-only", "--user", "4242:4242", IMAGE, "models")
    assert "tiny" in said and "llama" in said


def test_llama_cpp_takes_what_suits_the_processor(podman: Podman) -> None:
    script = (
        "from open_llm_server.engine.llama_native import start_backend; start_backend();"
        "print([line.split('/')[-1].split()[0] for line in open('/proc/self/maps')"
        " if 'libggml-cpu-' in line][0])"
    )
    assert re.match(r"libggml-cpu-\w+\.so", inside(podman, "python", "-c", script))
    # A folder of somebody's with a library of that name is not looked into.
    assert inside(podman, "sh", "-c", f'mkdir -p /tmp/llama_cpp/lib; cd /tmp; python -c "{script}"')
