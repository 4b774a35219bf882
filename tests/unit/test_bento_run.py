"""How BentoML's build of a folder ends: well, taken, full or stopped; nothing stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from open_llm_server.bento_run import run_bentoml
from open_llm_server.errors import ConfigurationError, InsufficientSpace, StartError

SERVICE = """
import os, shutil, signal, warnings
from pathlib import Path

warnings.simplefilter("ignore")
import bentoml

svc = bentoml.legacy.Service("half")
home = Path(os.environ["BENTOML_HOME"])
copytree = shutil.copytree


def fault(*words, **more):
    {fault}
    return copytree(*words, **more)


shutil.copytree = fault
{meanwhile}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def stage(folder: Path, *, fault: str = "pass", meanwhile: str = "") -> Path:
    """A service that meets `fault` when its Bento is half in the store."""
    there = folder / "stage"
    there.mkdir()
    (there / "service.py").write_text(SERVICE.format(fault=fault, meanwhile=meanwhile))
    (there / "bentofile.yaml").write_text(
        "service: service:svc\nname: half\npython: {lock_packages: false}\n"
    )
    return there


def left(home: Path) -> list[Path]:
    return [*(home / "tmp").iterdir(), *(home / "bentos").glob("*/*")]


@pytest.mark.parametrize("version", [None, "v1"])
def test_its_tag_is_what_comes_back(tmp_path: Path, home: Path, version: str | None) -> None:
    name, _, made = run_bentoml(stage(tmp_path), "half", version).partition(":")
    assert (name, version or made) == ("half", made)
    assert (home / "bentos" / name / made / "bento.yaml").is_file()
    assert not [*(home / "tmp").iterdir()]


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_leaves_nothing(tmp_path: Path, home: Path, number: str) -> None:
    fault = f"os.kill(os.getpid(), signal.{number})"
    with pytest.raises(StartError, match="stopped by a signal"):
        run_bentoml(stage(tmp_path, fault=fault), "half", "v1")
    assert not left(home)


@pytest.mark.parametrize(
    "fault",
    [
        'raise OSError(28, "No space left on device")',
        'raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])',
        'raise OSError(122, "Disk quota exceeded")',
    ],
)
def test_a_full_disk_is_called_that(tmp_path: Path, home: Path, fault: str) -> None:
    with pytest.raises(InsufficientSpace, match=r"is full: the build needs about \d") as refusal:
        run_bentoml(stage(tmp_path, fault=fault), "half", None)
    assert "writable" not in str(refusal.value)
    assert refusal.value.extra["needed"] > 0
    assert not left(home)


def test_who_comes_second_hears_that_the_tag_is_taken(tmp_path: Path, home: Path) -> None:
    meanwhile = '(home / "bentos" / "half" / "v1").mkdir(parents=True)'
    with pytest.raises(ConfigurationError, match="bentoml delete half:v1"):
        run_bentoml(stage(tmp_path, meanwhile=meanwhile), "half", "v1")
    assert not [*(home / "tmp").iterdir()]


def test_another_build_keeps_its_folder(tmp_path: Path, home: Path) -> None:
    theirs = home / "tmp" / "bentoml_bento_half_theirs"
    theirs.mkdir(parents=True)
    run_bentoml(stage(tmp_path), "half", "v1")
    assert theirs.is_dir()


def test_a_home_that_cannot_be_written(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "file"))
    with pytest.raises(StartError, match="make it writable, or set BENTOML_HOME"):
        run_bentoml(stage(tmp_path), "half", None)
