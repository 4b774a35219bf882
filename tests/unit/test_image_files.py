"""The files in containers/ agree with each other, with their source, and with the server."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import load, script

from open_llm_server.config.schema import ServerConfig
from open_llm_server.container_plan import ON_LLAMA_CPP, SLIM
from open_llm_server.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ROOT / "containers"
DRAIN_S = ServerConfig().drain_timeout_s


makes = script("make_containerfiles")
builds = script("build_images")
trim = load(CONTAINERS / "trim.py")


@pytest.mark.parametrize("target", makes.TARGETS)
def test_containerfiles_are_as_their_source_makes_them(target: str) -> None:
    text = makes.path_of(target).read_text()
    assert text == makes.containerfile(target), "run `make containers`"
    assert not re.search(r"@\w+@", text)


@pytest.mark.parametrize("target", makes.TARGETS)
def test_the_last_stage_is_small_and_safe(target: str) -> None:
    text = makes.path_of(target).read_text()
    last = text[text.rindex("\nFROM ") :]
    assert "USER 10001:10001" in last and "STOPSIGNAL SIGTERM" in last
    assert "open_llm_server.healthcheck" in last
    for tool in ("g++", "python3-venv", "pip", "ADD ", "curl"):
        assert tool not in last
    assert all(name.startswith(("MODELS", "VERSION")) for name in re.findall(r"\nARG (\w+)", last))


def test_what_goes_into_an_image_is_listed() -> None:
    """Everything that a Containerfile copies, and no weights but the built-in ones."""
    allowed = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = {
        word
        for line in (CONTAINERS / "Containerfile.in").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert copied <= set(allowed)
    tracked = subprocess.run(
        ["git", "ls-files", *allowed], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert tracked
    weights = {path for path in tracked if path.endswith((".gguf", ".safetensors", ".bin"))}
    assert weights == {"models/tiny/tiny-q8_0.gguf", "models/tiny/hf/model.safetensors"}


def test_an_image_has_a_tag_for_each_family() -> None:
    whole = builds.wanted("cpu", "all", [])
    assert list(whole.families) == list(Registry.own_names())
    assert whole.tag("llama") == "openllm-server/llama:cpu"
    slim = builds.wanted("cpu", "llama-cpp", [])
    assert slim.tag("llama") == "openllm-server/llama:cpu-slim"
    assert tuple(slim.families) == ON_LLAMA_CPP
    assert slim.variant == f"cpu{SLIM}"
    assert builds.wanted("cuda", "all", ["bloom"]).families == ["bloom"]
    with pytest.raises(SystemExit, match="no family 'blom'; there are "):
        builds.wanted("cpu", "all", ["blom"])
    with pytest.raises(SystemExit, match="bloom needs torch"):
        builds.wanted("cpu", "llama-cpp", ["llama", "bloom"])


def test_the_words_of_a_build() -> None:
    image = builds.wanted("cpu", "llama-cpp", ["llama"])
    first, second = builds.build_commands(
        "/usr/bin/podman", image, "llama", arguments=["PIP_CERT=/a"], mounts=["/a:/a:ro"]
    )
    words = [
        *("/usr/bin/podman", "build", "--file", "containers/Containerfile.cpu", "--format=docker"),
        *("--build-arg=ENGINES=llama-cpp", "--build-arg=MODELS=llama"),
        *(f"--build-arg=VERSION={builds.version()}", "--build-arg=PIP_CERT=/a"),
    ]
    label = f"--label={builds.SOURCES_LABEL}={builds.sources_hash()}"
    assert first == [*words, "--target=build", "--volume=/a:/a:ro", "."]
    assert second == [*words, label, "--tag", "openllm-server/llama:cpu-slim", "."]
    (docker,) = builds.build_commands("docker", image, "llama", arguments=[], mounts=[])
    assert "--format=docker" not in docker


def test_the_words_that_pip_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path} /nowhere https://index.example/simple")
    settings = builds.pip_settings()
    assert settings["PIP_FIND_LINKS"].split()[0] == str(tmp_path)
    (tmp_path / "index" / "simple").mkdir(parents=True)
    index = f"https://index.example/simple file://{tmp_path}/index/simple"
    found = builds.local_paths({**settings, "PIP_EXTRA_INDEX_URL": index})
    assert {str(tmp_path.resolve()), str(tmp_path.resolve() / "index")} <= set(found)
    told, mounts = builds.shared(
        "podman", {"PIP_FIND_LINKS": str(tmp_path), "PIP_CERT": str(tmp_path / "ca.pem")}
    )
    (kept, links, cert) = mounts
    assert kept.startswith(str(tmp_path / "cache")) and kept.endswith(":rw")
    assert f":{builds.CACHE}/" in kept
    assert f"XDG_CACHE_HOME={builds.CACHE}\n" in (CONTAINERS / "Containerfile.in").read_text()
    assert links == f"{tmp_path.resolve()}:{tmp_path.resolve()}:ro"
    assert cert == f"{tmp_path / 'ca.pem'}:{builds.CERT}:ro"
    assert f"PIP_CERT={builds.CERT}" in told
    assert builds.shared("docker", settings)[1] == []


def test_trimming(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    keep = (
        "torch/a.py",
        "open_llm_server/models/tiny/hf/model.safetensors",
        "torch/testing/a.py",
        "numpy/a.so",
        "llama_cpp/lib/libx.so.1.2",
    )
    gone = (
        "torch/include/a.h",
        "lib/libggml.so",
        "include/ggml.h",
        "numpy/core/tests/test_a.py",
        "torch/lib/a.a",
        "torch/a.pyi",
    )
    for name in (*keep, *gone, "llama_cpp/lib/libx.so", "llama_cpp/lib/libx.so.1"):
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"same" if "libx" in name else name.encode())
    trim.trim(site)
    assert all((site / name).is_file() for name in keep)
    assert not any((site / name).exists() for name in gone)
    for name in ("libx.so", "libx.so.1"):
        path = site / "llama_cpp" / "lib" / name
        assert path.is_symlink() and path.read_bytes() == b"same"


def test_trimming_without_torch(tmp_path: Path) -> None:
    weights = tmp_path / "open_llm_server" / "models" / "tiny"
    (weights / "hf").mkdir(parents=True)
    (weights / "tiny-q8_0.gguf").touch()
    trim.trim(tmp_path)
    assert [path.name for path in weights.iterdir()] == ["tiny-q8_0.gguf"]


def documents(name: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all((CONTAINERS / name).read_text()) if each]


def test_compose() -> None:
    (compose,) = documents("compose.yaml")
    server, proxy = compose["services"]["server"], compose["services"]["proxy"]
    assert server["read_only"] and server["cap_drop"] == ["ALL"] and "/tmp" in server["tmpfs"]
    assert "ports" not in server, "only nginx is reached from outside"
    assert "?" in server["environment"]["OPEN_LLM_API_KEY"], "without a key nothing starts"
    assert int(server["stop_grace_period"].removesuffix("s")) > DRAIN_S
    assert proxy["depends_on"]["server"]["condition"] == "service_healthy"
    nginx = (CONTAINERS / "nginx.conf").read_text()
    grpc = server["environment"]["OPEN_LLM_GRPC_PORT"]
    assert "proxy_pass http://server:5000;" in nginx and f"grpc://server:{grpc};" in nginx


def test_kubernetes() -> None:
    names = sorted(path.name for path in (CONTAINERS / "kubernetes").glob("*.yaml"))
    assert names == ["deployment.yaml", "service.yaml", "volume.yaml"]
    (deployment,), (service,), (volume,) = (documents(f"kubernetes/{name}") for name in names)
    pod = deployment["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert server["securityContext"]["readOnlyRootFilesystem"]
    assert server["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert server["livenessProbe"]["httpGet"]["path"] == "/livez"
    wait_s = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > DRAIN_S + wait_s
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels == deployment["spec"]["selector"]["matchLabels"]
    claims = [each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"][:1]]
    assert claims == [volume["metadata"]["name"]]
