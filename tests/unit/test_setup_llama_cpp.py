"""Which build of llama.cpp a machine gets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from programs import script

ROOT = Path(__file__).resolve().parents[2]


setup = script("setup_llama_cpp")
AVX2 = {"sse4_2", "avx", "avx2", "fma", "f16c", "bmi2"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vbmi"}
ZEN = AVX512 | {"avx512_vnni", "avx512_bf16", "avx_vnni"}
SAPPHIRE = ZEN | {"amx_tile", "amx_int8", "amx_bf16"}


@pytest.mark.parametrize(
    ("machine", "features", "gcc", "names", "on", "flags"),
    [
        (
            "x86_64",
            SAPPHIRE,
            (12, 2),
            ["with AMX", "for this processor", "with AVX2 only", "as the sources choose"],
            {"GGML_AMX_INT8", "GGML_AMX_TILE", "GGML_AVX512_BF16"},
            "-fno-tree-dse -fno-dse",
        ),
        ("x86_64", SAPPHIRE, (12, 4), None, {"GGML_AMX_INT8"}, ""),
        ("x86_64", SAPPHIRE, (13, 2), None, {"GGML_AMX_INT8"}, "-fno-tree-dse -fno-dse"),
        ("x86_64", SAPPHIRE, (14, 1), None, {"GGML_AMX_INT8"}, ""),
        ("x86_64", SAPPHIRE, None, None, {"GGML_AMX_INT8"}, ""),
        ("x86_64", SAPPHIRE, (10, 2), None, {"GGML_AVX512_BF16"}, ""),
        (
            "x86_64",
            ZEN,
            (12, 2),
            ["for this processor", "with AVX2 only", "as the sources choose"],
            {"GGML_AVX512", "GGML_AVX512_BF16", "GGML_AVX_VNNI"},
            "",
        ),
        (
            "x86_64",
            AVX2,
            (12, 2),
            ["for this processor", "as the sources choose"],
            {"GGML_AVX2", "GGML_FMA"},
            "",
        ),
        # A processor that has but a part of AVX-512 cannot run what ggml makes of it.
        ("x86_64", AVX2 | {"avx512f", "avx512_vnni"}, (12, 2), None, {"GGML_AVX2"}, ""),
        ("x86_64", {"sse4_2"}, (12, 2), ["as the sources choose"], set(), ""),
        ("aarch64", set(), (12, 2), ["as the sources choose"], set(), ""),
        ("arm64", set(), None, ["as the sources choose"], set(), ""),
    ],
)
def test_the_best_build(
    machine: str,
    features: set[str],
    gcc: tuple[int, int] | None,
    names: list[str] | None,
    on: set[str],
    flags: str,
) -> None:
    builds = setup.choose_builds(machine, features, gcc)
    best = builds[0]
    assert names is None or [build.name for build in builds] == names
    assert on <= {name for name, value in best.switches.items() if value == "ON"}
    assert best.flags == flags
    if best.switches:
        assert best.switches["GGML_NATIVE"] == "OFF"
    if not features >= setup.AVX512:
        assert not any("512" in name for name, value in best.switches.items() if value == "ON")
    if gcc and gcc[0] < 11:
        assert "GGML_AMX_INT8" not in {n for n, v in best.switches.items() if v == "ON"}


def test_the_last_resort_decides_nothing() -> None:
    assert setup.choose_builds("x86_64", SAPPHIRE, (12, 2))[-1].switches == {}


def test_a_failing_command_shows_its_last_words(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        setup.run_with_progress(["no-such-command"], {})
    assert "no-such-command" in capfd.readouterr().err


def test_this_machine_has_a_compiler_and_a_build() -> None:
    name, gcc = setup.compiler()
    assert name
    assert setup.choose_builds("x86_64", setup.processor_features(), gcc)


def test_the_installed_build_is_proved() -> None:
    assert setup.proof() == ""


def test_a_build_that_does_not_decode_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(setup.sys, "executable", "false")
    assert setup.proof() == "without a word"


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("gcc", [(12, 2), (14, 1), None])
def test_a_wheel_for_every_processor(gcc: tuple[int, int] | None, cuda: bool) -> None:
    build = setup.portable_build(gcc, cuda=cuda)
    assert build.switches["GGML_CPU_ALL_VARIANTS"] == "ON"
    assert build.switches["GGML_NATIVE"] == "OFF"
    assert ("GGML_CUDA" in build.switches) is cuda
    assert build.flags == (setup.KEEP_TILE_STORES if gcc == (12, 2) else "")


def test_a_wheel_is_made_once_and_put_where_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def make(command: list[str], environment: dict[str, str]) -> None:
        made.append(environment["CMAKE_ARGS"])
        folder = Path(command[command.index("--wheel-dir") + 1])
        folder.mkdir(parents=True)
        (folder / "llama_cpp_python-0-py3-none-any.whl").write_bytes(b"wheel")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(setup, "run_with_progress", make)
    for folder in (tmp_path / "a", tmp_path / "b"):
        monkeypatch.setattr(sys, "argv", ["setup_llama_cpp.py", "--portable", str(folder)])
        setup.main()
        assert [path.name for path in folder.iterdir()] == ["llama_cpp_python-0-py3-none-any.whl"]
    assert len(made) == 1 and "-DGGML_BACKEND_DL=ON" in made[0]
