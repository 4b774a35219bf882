"""What a container is given of this machine: files, the store, a user, an image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from sample_families import only_samples

from open_llm_server.cli import cli
from open_llm_server.config.merge import Drafts, draft
from open_llm_server.container import Mount, Target
from open_llm_server.container_engines import Engine
from open_llm_server.container_files import mounts
from open_llm_server.container_host import (
    STORE,
    User,
    complaints,
    hub_variables,
    is_labelled,
    make_store,
    store_mounts,
    user,
)
from open_llm_server.container_plan import default_image, foreign_families
from open_llm_server.errors import ConfigurationError, StartError, WeightsError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with files in it."""
    place = (tmp_path / "work").resolve()
    (place / "sub").mkdir(parents=True)
    monkeypatch.chdir(place)
    for name in ("q4.gguf", "sub/big-00001-of-00002.gguf", "sub/big-00002-of-00002.gguf"):
        (place / name).touch()
    for name in ("p.txt", "sub/p.txt", "a.pem", "lora.gguf"):
        (place / name).write_text("a text")
    with only_samples(monkeypatch):
        yield place


def drafts(*models: str, configuration: str | None = None, **flags: object) -> Drafts:
    return draft(
        models,
        flags=flags,
        sets=(),
        devices=(),
        environ={},
        configuration=configuration,
        door="flag",
        need_models=True,
    )


def same(*paths: Path) -> tuple[Mount, ...]:
    return tuple(Mount(str(path), str(path)) for path in paths)


def test_nothing_is_mounted_for_nothing() -> None:
    assert mounts(drafts("bloom")) == ()
    assert mounts(drafts("tiny")) == ()
    assert mounts(drafts("bloom", prompt="no file.")) == ()


def test_files_of_flags(here: Path) -> None:
    found = mounts(
        drafts("bloom", prompt="p.txt", lora=("lora.gguf",), tls_cert="a.pem", tls_key="a.pem")
    )
    assert set(found) == set(same(here / "p.txt", here / "lora.gguf", here / "a.pem"))


def test_weights(here: Path) -> None:
    assert mounts(drafts("llama@./q4.gguf")) == same(here / "q4.gguf")
    assert mounts(drafts("one=llama@./#q4.gguf")) == same(here / "q4.gguf")
    (here / "link.gguf").symlink_to("q4.gguf")
    assert mounts(drafts("llama@./link.gguf")) == same(here / "q4.gguf")


def test_all_parts_of_weights(here: Path) -> None:
    parts = [here / f"sub/big-0000{place}-of-00002.gguf" for place in (1, 2)]
    assert mounts(drafts(f"llama@{parts[0]}")) == same(*parts)
    parts[1].unlink()
    with pytest.raises(WeightsError, match=r"big-00002-of-00002\.gguf is missing"):
        mounts(drafts(f"llama@{parts[0]}"))


def test_a_folder_whose_files_are_links_as_in_a_hubs_cache(here: Path) -> None:
    (here / "blobs").mkdir()
    blob = here / "blobs/abc"
    blob.write_text("{}")
    folder = here / "snapshots/main"
    folder.mkdir(parents=True)
    (folder / "config.json").symlink_to("../../blobs/abc")
    (folder / "own.json").touch()
    (folder / "near.json").symlink_to("own.json")
    (folder / "broken.json").symlink_to("nowhere")
    assert mounts(drafts(f"gpt-neox@{folder}")) == same(folder, blob)


def test_what_a_file_says_stands_where_it_says(here: Path) -> None:
    (here / "deep").mkdir()
    (here / "deep/link.txt").symlink_to("../sub/p.txt")
    (here / "deep/link.gguf").symlink_to("../q4.gguf")
    configuration = here / "deep/c.yaml"
    configuration.write_text(
        "models: [llama@./link.gguf]\ndefaults: {prompt: ../deep/link.txt}\n"
        "bloom: {lora: [absent.gguf]}\n"
    )
    assert mounts(drafts(configuration="deep/c.yaml")) == (
        *same(configuration),
        Mount(str(here / "sub/p.txt"), str(here / "deep/link.txt")),
        *same(here / "q4.gguf"),
    )


def test_home_in_a_file_is_another_home(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    Path("c.yaml").write_text("defaults: {prompt: ~/p.txt}\n")
    with pytest.raises(ConfigurationError, match="defaults prompt: '~' is another folder inside"):
        mounts(drafts("bloom", configuration="c.yaml"))
    assert mounts(drafts("bloom", prompt="~/p.txt")) == same(here / "p.txt")


def test_missing_files_are_errors_here() -> None:
    with pytest.raises(ConfigurationError, match=r"flag --lora: there is no file"):
        drafts("bloom", lora=("nope.gguf",))
    with pytest.raises(WeightsError, match="there is no file or folder"):
        drafts("llama@./nope.gguf")


@pytest.mark.parametrize("path", ["/", "/usr", "/usr/share", "/etc", "/tmp", "/proc", "/dev"])
def test_folders_that_the_image_needs(path: str) -> None:
    with pytest.raises(ConfigurationError, match="copy what the server shall read"):
        mounts(drafts("bloom", lora=(path,)))


def test_files_in_them_are_no_danger() -> None:
    assert mounts(drafts("bloom", lora=("/etc/passwd",))) == same(Path("/etc/passwd"))
    with pytest.raises(ConfigurationError, match="a /proc of its own"):
        mounts(drafts("bloom", lora=("/proc/cpuinfo",)))


@pytest.mark.parametrize(
    ("engine", "uid", "expected"),
    [
        (Engine("docker", "docker"), 0, User(10001, None)),
        (Engine("podman", "podman"), 0, User(10001, None)),
        (Engine("docker", "docker"), 1000, User(1000, "1000:1001")),
        (Engine("docker", "docker", rootless=True), 1000, User(1000, "0:0")),
        (Engine("nerdctl", "nerdctl", rootless=True), 1000, User(1000, "0:0")),
        (Engine("podman", "podman", rootless=True), 1000, User(1000, "1000:1001", keep_id=True)),
    ],
)
def test_users(monkeypatch: pytest.MonkeyPatch, engine: Engine, uid: int, expected: User) -> None:
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(os, "getgid", lambda: uid + 1)
    assert user(engine) == expected


def test_the_store_is_made(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(here / "new/store"))
    make_store(User(os.getuid(), None))
    make_store(User(os.getuid(), None))
    assert (here / "new/store").stat().st_mode & 0o777 == 0o755
    assert store_mounts()[0] == Mount(str(here / "new/store"), STORE, read_only=False)
    monkeypatch.setenv("BENTOML_HOME", "/proc/nope")
    with pytest.raises(StartError, match="--no-mount-store"):
        make_store(User(os.getuid(), None))


def test_complaints(here: Path, tmp_path: Path) -> None:
    store = Mount(str(here), STORE, read_only=False)
    other = os.getuid() + 77
    assert complaints(User(os.getuid(), None), [store]) == []
    here.chmod(0o777)
    assert complaints(User(other, None), [store]) == []
    (here / "models").mkdir(mode=0o755)
    (line,) = complaints(User(other, None), [store])
    assert f"who may not write to {here}/models" in line
    assert f"chown -R {other}:{other} {here}" in line
    (here / "a.pem").chmod(0o600)
    (line,) = complaints(User(other, None), same(here / "a.pem", here / "p.txt"))
    assert f"may not read {here}/a.pem" in line


def test_the_way_to_a_hub(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(here / "token"))
    environ = {"HF_ENDPOINT": "http://h", "https_proxy": "http://u:p@q", "NO_PROXY": "", "X": "y"}
    assert hub_variables(environ, fetches=True) == (("HF_ENDPOINT", "https_proxy"), {})
    (here / "token").write_text("hf_abc\n")
    assert hub_variables({}, fetches=True) == (("HF_TOKEN",), {"HF_TOKEN": "hf_abc"})
    assert hub_variables({}, fetches=False) == ((), {})
    assert hub_variables({"HF_TOKEN": "hf_x"}, fetches=True) == (("HF_TOKEN",), {})
    assert hub_variables({"HF_TOKEN": "hf_x"}, fetches=False) == ((), {})


@pytest.mark.parametrize(("text", "labelled"), [("1", True), ("0\n", False), (None, False)])
def test_labels(here: Path, text: str | None, labelled: bool) -> None:
    if text is not None:
        (here / "enforce").write_text(text)
    assert is_labelled(here / "enforce") is labelled


def test_images() -> None:
    models = drafts("t=tiny", "fake")
    assert default_image(models, Target("cpu")) == "openllm-server/tiny:cpu"
    assert default_image(models, Target("gpu")) == "openllm-server/tiny:cuda"
    card = drafts("vicuna@./q4.gguf")
    assert default_image(card, Target("cpu")) == "openllm-server/llama:cpu"
    assert foreign_families(card) == []


def test_families_of_other_packages_need_an_image_that_has_them() -> None:
    mixed = drafts("tiny", "bloom")  # a sample of the tests
    assert foreign_families(mixed) == ["bloom"]
    with pytest.raises(ConfigurationError, match=r"another package.*--image"):
        default_image(mixed, Target("cpu"))
    words = ("bloom", "--beams=2", "--image=mine", "--target-device=cpu", "--dry-run")
    done = CliRunner().invoke(cli, ["run-container", *words, "--container-engine=podman"])
    assert "note: family 'bloom' comes from another package: mine must have it" in done.stderr
    assert "mine start bloom --beams=2 --port=5000" in done.stdout
