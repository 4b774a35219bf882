"""Every command of the page on installing, as it stands there, as far as it can run here.

There is no network: pip finds the two distributions among those that were just built, and what
they need in an environment that has it already.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import environments
import pytest
from environments import OWN, ROOT, SERVER, Environment
from programs import script
from running import HANG_S
from shells import Person

from open_llm_server.extras import GRPC, LLAMA_CPP, TORCH

PAGE = (ROOT / "docs" / "installing.md").read_text()
LINES = [
    line.split("  #")[0].strip()
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
FLAGS = re.compile(r"-D(GGML_\w+)=(ON|OFF)")
NATIVE_OFF = {"GGML_SSE42", "GGML_AVX", "GGML_AVX2", "GGML_BMI2", "GGML_FMA", "GGML_F16C"}
"""What ggml builds for by itself once it is told not to look at the processor."""
AVX2 = {"sse4_2", "avx", "avx2", "fma", "f16c", "bmi2"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vbmi"}
ZEN = AVX512 | {"avx512_vnni", "avx512_bf16"}
PROCESSORS = {"AVX2": AVX2, "AVX-512": ZEN, "AMX": ZEN | {"amx_tile", "amx_int8"}}


def starting(word: str) -> list[str]:
    return [line for line in LINES if line.startswith(word)]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """With everything that all extras bring, and without the two distributions themselves."""
    base = tmp_path_factory.getbasetemp()
    made = environments.make(base, tmp_path_factory.mktemp("full"), "all")
    done = made.pip("uninstall", "--quiet", "--yes", *OWN)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environments.built(tmp_path_factory.getbasetemp())


def test_the_page_is_covered() -> None:
    programs = {line.split()[0] for line in LINES}
    assert programs == {"pip", "uv", "make", "export", SERVER}
    assert len(starting("pip install")) >= 11


def test_torch_for_cpus_is_the_release_that_was_tested() -> None:
    """uv itself fetches indexes before it says anything, so this line is only read."""
    (line,) = starting("uv ")
    assert line.startswith("uv pip install --torch-backend=cpu torch==")
    assert line.split()[-1] in (ROOT / "constraints.txt").read_text().splitlines()


@pytest.mark.parametrize("line", [line for line in starting("pip install") if "uv" not in line])
def test_pip_takes_it(line: str, full: Environment, wheels: Path) -> None:
    words, before, names = [], "", []
    for word in shlex.split(line)[2:]:
        if before == "-c":
            assert word.startswith("https://") and word.endswith("/main/constraints.txt")
            words.append(str(ROOT / "constraints.txt"))
        elif word != "--force-reinstall":
            words.append(word)
        names += [word] if word.startswith(OWN) else []
        before = word
    if "wheels" in words:
        words[words.index("wheels")] = str(wheels)
    done = full.pip("install", "--dry-run", "--no-index", "--find-links", wheels, *words)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, "an extra that there is not"
    if names:
        assert "Would install open-llm-client" in done.stdout


def test_wheels_are_made_for_elsewhere(full: Environment, wheels: Path) -> None:
    """What needs the network is left out: the wheels of others."""
    (line,) = starting("pip wheel")
    words = shlex.split(line)[1:]
    done = full.pip(*words, "--no-deps", "--no-index", "--find-links", wheels)
    assert done.returncode == 0, done.stderr
    (made,) = (full.work / "wheels").iterdir()
    assert made.name.startswith("open_llm_server-")
    shutil.rmtree(made.parent)


@pytest.mark.server
@pytest.mark.weights
def test_what_is_installed_then_works(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = environments.installed(tmp_path_factory.getbasetemp(), "llama-cpp")
    person = Person(made.work, made.variables)
    lines = starting(SERVER)
    assert [line.split()[1] for line in lines] == ["--version", "models", "start"]
    for line in lines:
        if line.startswith(f"{SERVER} start"):
            person.starts(line)
        else:
            assert person.do(line.removeprefix(SERVER))[0], line


@pytest.mark.parametrize("line", starting("make"))
def test_make_has_it(line: str) -> None:
    done = subprocess.run(
        [*shlex.split(line), "--dry-run", "--always-make"],
        cwd=ROOT,
        env=_without_make(os.environ),
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def _without_make(environment: Mapping[str, str]) -> dict[str, str]:
    """`make test` tells the makes below it what it was told itself."""
    return {name: value for name, value in environment.items() if not name.startswith("MAKE")}


def test_the_table_of_extras() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*?) \|", PAGE, re.MULTILINE))
    assert {*rows} == {LLAMA_CPP.name, TORCH.name, GRPC.name, "all"}
    for package in (*LLAMA_CPP.packages.values(), *TORCH.packages.values(), "grpcio"):
        assert any(package in row for row in rows.values()), package


@pytest.mark.parametrize("kind", PROCESSORS)
def test_the_flags_are_those_that_make_setup_takes(kind: str) -> None:
    setup = script("setup_llama_cpp")
    (row,) = re.findall(rf"^\| {kind}\b.*?\| `(.*)` \|$", PAGE, re.MULTILINE)
    flags = dict(FLAGS.findall(row))
    assert flags.pop("GGML_NATIVE") == "OFF"
    best = setup.choose_builds("x86_64", PROCESSORS[kind], (14, 1))[0]
    wanted = {name for name, value in best.switches.items() if value == "ON"}
    assert {name for name, value in flags.items() if value == "ON"} | NATIVE_OFF == wanted
    assert setup.KEEP_TILE_STORES in PAGE


def test_versions_on_the_page() -> None:
    setup = script("setup_llama_cpp")
    pins = (ROOT / "constraints.txt").read_text()
    assert {*re.findall(r"llama-cpp-python==[\d.]+", PAGE)} == {setup.REQUIREMENT}
    (torch,) = {*re.findall(r"torch==[\d.]+", PAGE)}
    assert f"\n{torch}\n" in pins
