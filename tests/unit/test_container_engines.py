"""The choice of an engine, among programs that answer and programs that do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_engines import Engines

from open_llm_server.container_engines import Engine, find, has_image, replace_process, unasked
from open_llm_server.errors import ConfigurationError, StartError

NO_DAEMON = "Client: 28\n\nCannot connect to the Docker daemon. Is it running?\n"


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engines:
    monkeypatch.setenv("PATH", str(tmp_path))
    return Engines(tmp_path)


def test_the_first_that_is_there(engines: Engines) -> None:
    engines.add("nerdctl")
    assert find(None).name == "nerdctl"
    engines.add("podman")
    assert find(None).name == "podman"
    engines.add("docker")
    assert find(None) == Engine("docker", "docker", rootless=False)


def test_one_that_does_not_answer_is_passed_over(engines: Engines) -> None:
    engines.add("docker", complaint=NO_DAEMON)
    engines.add("podman")
    found = find(None)
    assert found.executable == "podman"
    assert found.passed_over == "docker is installed but does not answer"


def test_none_answers(engines: Engines) -> None:
    engines.add("docker", complaint=NO_DAEMON)
    with pytest.raises(StartError, match=r"no container engine answers \(docker: Cannot connect"):
        find(None)
    with pytest.raises(StartError, match=r"installed but its engine does not answer \(Cannot"):
        find("docker")


def test_none_is_there(engines: Engines) -> None:
    with pytest.raises(StartError, match="install docker, podman or nerdctl"):
        find(None)
    with pytest.raises(StartError, match="podman is not installed here"):
        find("podman")
    with pytest.raises(StartError, match="docker is not installed here"):
        find(str(engines.folder / "docker"))


def test_an_engine_that_cannot_be_run(engines: Engines) -> None:
    engines.add("docker").write_text("#!/nonexistent/python\n")
    with pytest.raises(StartError, match="No such file"):
        find("docker")


def test_a_path(engines: Engines, tmp_path: Path) -> None:
    program = engines.add("podman")
    assert find(str(program)) == Engine("podman", str(program), find("podman").rootless)


@pytest.mark.parametrize("wanted", ["", "lxc", "podman-remote", "podman run", "/bin/sh", "-"])
def test_no_engine(wanted: str) -> None:
    for look in (find, unasked):
        with pytest.raises(ConfigurationError, match="want docker, podman, nerdctl, or the path"):
            look(wanted)


def test_podman_under_the_name_of_docker(engines: Engines) -> None:
    engines.add("docker", version="Client:       Podman Engine\nVersion:      4.3.1\n")
    assert (find(None).name, find(None).executable) == ("podman", "docker")


@pytest.mark.parametrize(
    ("name", "uid", "info", "rootless"),
    [
        ("docker", 0, "[name=seccomp name=rootless]", False),
        ("docker", 1000, "[name=seccomp,profile=builtin name=cgroupns]", False),
        ("docker", 1000, "[name=seccomp,profile=builtin name=rootless]", True),
        ("podman", 0, "", False),
        ("podman", 1000, "", True),
        ("nerdctl", 1000, "", True),
    ],
)
def test_rootless(
    engines: Engines,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    uid: int,
    info: str,
    rootless: bool,
) -> None:
    engines.add(name, info=info)
    monkeypatch.setattr(os, "getuid", lambda: uid)
    assert find(name).rootless is rootless


def test_images(engines: Engines) -> None:
    engines.add("docker", image=True)
    engines.add("podman", image=False)
    assert has_image(find("docker"), "tiny")
    assert not has_image(find("podman"), "tiny")


def test_a_program_that_is_gone(engines: Engines) -> None:
    with pytest.raises(StartError, match="cannot run podman: No such file"):
        replace_process(["podman", "run"], os.environ)
