"""What is said of processors, and of builds of llama.cpp that do not suit them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from open_llm_server import doctor_cpu
from open_llm_server.doctor_cpu import judge_build, judge_cores, judge_features, lacking, rebuild

MODERN = {"avx", "avx2", "fma", "f16c", "bmi2", "avx512f", "avx512_vnni", "avx512_bf16"}
FULL = "CPU : AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | AVX512 = 1 | " + (
    "AVX512_VNNI = 1 | AVX512_BF16 = 1 | OPENMP = 1 |"
)


@pytest.mark.parametrize(
    ("usable", "logical", "quota", "level", "words"),
    [
        (8, 16, None, "ok", "8 cores to compute with (16 logical processors)"),
        (1, 1, None, "ok", "1 core "),
        (8, 16, 16.0, "ok", "8 cores"),
        (2, 16, 2.5, "note", "2.5 processors' time"),
        (1, 16, 0.5, "warning", "0.5 processors' time"),
    ],
)
def test_cores(usable: int, logical: int, quota: float | None, level: str, words: str) -> None:
    finding = judge_cores(usable, logical, quota)
    assert finding.level == level
    assert words in finding.says
    assert bool(finding.do) == (level == "warning")


@pytest.mark.parametrize(
    ("flags", "level", "says"),
    [
        (MODERN | {"amx_tile"}, "ok", "AVX2, AVX512, VNNI, BF16, AMX"),
        ({"sse4_2", "avx"}, "warning", "no AVX2"),
        (set(), "note", "does not tell"),
    ],
)
def test_features(flags: set[str], level: str, says: str) -> None:
    finding = judge_features(flags)
    assert finding.level == level
    assert says in finding.says


@pytest.mark.parametrize(
    ("system", "flags", "missing"),
    [
        (FULL, MODERN, []),
        (FULL, {"avx2"}, []),
        ("CPU : SSE3 = 1 | AVX = 1 |", MODERN & {"avx", "avx2", "fma"}, ["AVX2", "FMA"]),
        ("CPU : AVX = 1 | AVX2 = 0 |", {"avx", "avx2"}, ["AVX2"]),
        (FULL, MODERN | {"amx_int8"}, ["AMX_INT8"]),
        ("", {"avx2"}, ["AVX2"]),
    ],
)
def test_what_a_build_lacks(system: str, flags: set[str], missing: list[str]) -> None:
    assert lacking(system, flags) == missing


def noted(build: str, **switches: str) -> dict[str, Any]:
    """What `make setup` writes down."""
    return {
        "build": build,
        "inputs": ["1", "c++", {"name": "with AMX", "switches": switches, "flags": ""}],
    }


@pytest.mark.parametrize(
    ("flags", "stamp", "level"),
    [
        (MODERN, {}, None),
        (MODERN | {"avx512vbmi"}, {}, "warning"),
        # The compiler is too old for it, so it was left out.
        (MODERN | {"avx512vbmi"}, noted("with AMX", GGML_AVX512_VBMI="OFF"), "note"),
        # It was built in, and something else lies there now.
        (MODERN | {"avx512vbmi"}, noted("with AMX", GGML_AVX512_VBMI="ON"), "warning"),
        # The best build did not decode.
        (MODERN | {"amx_int8"}, noted("for this processor", GGML_AMX_INT8="ON"), "note"),
        (MODERN | {"amx_int8"}, {}, "note"),
        (MODERN | {"avx512vbmi"}, {"build": 3, "inputs": "nonsense"}, "warning"),
        (MODERN | {"avx512vbmi"}, {"build": "x", "inputs": [1, 2, 3]}, "warning"),
    ],
)
def test_a_build_that_does_not_suit(
    flags: set[str], stamp: dict[str, Any], level: str | None
) -> None:
    finding = judge_build(FULL, flags, stamp)
    assert (finding and finding.level) == level
    if finding and level == "warning":
        assert "AVX512_VBMI" in finding.says
        assert finding.do


def test_the_way_out_of_a_checkout_is_make_setup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Makefile").touch()
    (tmp_path / ".runtime").touch()
    monkeypatch.setattr(doctor_cpu, "_ROOT", tmp_path)
    monkeypatch.setattr(doctor_cpu, "_STAMP", tmp_path / "stamp.json")
    command = rebuild(MODERN)
    assert command.startswith("rm -f ")
    assert command.endswith(f"make -C {tmp_path} setup")


@pytest.mark.parametrize(
    ("flags", "switches"),
    [
        ({"avx2"}, '"-DGGML_NATIVE=ON"'),
        # Left to itself the compiler would take AMX, and some make crashing code of it.
        ({"avx2", "fma", "amx_int8"}, '"-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON"'),
    ],
)
def test_the_way_out_of_an_installed_package_is_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: set[str], switches: str
) -> None:
    monkeypatch.setattr(doctor_cpu, "_STAMP", tmp_path / "stamp.json")
    command = rebuild(flags)
    assert command.startswith(f"CMAKE_ARGS={switches} pip install ")
    assert "--no-binary llama-cpp-python 'llama-cpp-python" in command


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00"])
def test_a_stamp_that_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(doctor_cpu, "_STAMP", tmp_path / "stamp.json")
    assert doctor_cpu.stamp() == {}
    (tmp_path / "stamp.json").write_text(text)
    assert doctor_cpu.stamp() == {}
