"""What is said of llama.cpp, torch and GPUs, given what children and drivers answered."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from open_llm_server import doctor_gpu, doctor_llama, doctor_torch
from open_llm_server.doctor_ask import Answer
from open_llm_server.doctor_finding import Finding
from open_llm_server.doctor_gpu import Gpu, rows

WELL = {"system": "CPU : AVX2 = 1 |", "gpu": False, "decoded": 4}
GIB = 1024**3


def llama(answer: Answer, *users: str, on_gpu: tuple[str, ...] = ()) -> list[Finding]:
    return doctor_llama.judge(answer, {"avx2"}, {}, users, on_gpu)


def torch(
    answer: Answer,
    *users: str,
    on_gpu: tuple[str, ...] = (),
    gpus: int = 0,
    visible: str | None = None,
) -> list[Finding]:
    return doctor_torch.judge(answer, users, on_gpu, gpus, visible)


def test_llama_decodes() -> None:
    (finding,) = llama(Answer(WELL), "tiny")
    assert finding.level == "ok"


@pytest.mark.parametrize(("users", "level"), [(["tiny"], "problem"), ([], "warning")])
def test_a_crash_stops_only_those_who_need_it(users: list[str], level: str) -> None:
    (finding,) = llama(Answer({}, "was ended by signal SIGILL", "SIGILL"), *users)
    assert finding.level == level
    assert "SIGILL" in finding.says
    assert "another processor" in finding.says
    assert "make" in finding.do or "pip install" in finding.do


def test_how_llama_may_fail() -> None:
    (killed,) = llama(Answer({}, "was ended by signal SIGKILL", "SIGKILL"), "tiny")
    assert "memory" in killed.do
    (hung,) = llama(Answer({}, "was not done after 60 s", hung=True), "tiny")
    assert "its process was not done after 60 s" in hung.says
    assert hung.do.startswith("try again")
    (broken,) = llama(Answer({}, "ImportError: libllama.so"), "tiny")
    assert broken.says.endswith("model: ImportError: libllama.so")


def test_a_crash_after_it_said_how_it_is_built_tells_both() -> None:
    facts = {"system": "CPU : AVX = 1 |", "gpu": False}
    crash, build = llama(Answer(facts, "was ended by signal SIGSEGV", "SIGSEGV"), "tiny")
    assert crash.level == "problem"
    assert build.level == "warning"
    assert "AVX2" in build.says


def test_llama_and_gpus() -> None:
    *_, finding = llama(Answer(WELL), "big", on_gpu=("big",))
    assert finding.level == "problem"
    assert "--device cpu" in finding.do
    assert "GGML_CUDA" in finding.do
    *_, finding = llama(Answer({**WELL, "gpu": True}), "big", on_gpu=("big",))
    assert finding.level == "ok"


def facts(**more: Any) -> dict[str, Any]:
    return {"version": "2.13", "threads": 4, "built": None, "gpus": [], "why": "", **more}


def test_torch_computes() -> None:
    (finding,) = torch(Answer(facts()), "flan-t5")
    assert finding.level == "ok"
    assert "torch 2.13" in finding.says
    assert "4 threads" in finding.says


@pytest.mark.parametrize(("users", "level"), [(["flan-t5"], "problem"), ([], "warning")])
def test_torch_fails(users: list[str], level: str) -> None:
    (finding,) = torch(Answer({}, "OSError: libc10.so"), *users)
    assert finding.level == level
    assert "OSError: libc10.so" in finding.says
    assert "pip install 'open-llm-server[torch]'" in finding.do
    (beside,) = torch(Answer(facts(), "ImportError: transformers"), *users)
    assert beside.says.startswith("torch computes, but")


@pytest.mark.parametrize(
    ("told", "visible", "words", "do"),
    [
        ({}, None, "built for the CPU only", "CUDA"),
        ({"built": "12.8"}, "-1", "CUDA_VISIBLE_DEVICES is '-1'", "unset"),
        ({"built": "12.8", "why": "The driver is too old (found 11)"}, None, "too old", "driver"),
        ({"built": "12.8"}, None, "CUDA 12.8", "driver"),
    ],
)
def test_gpus_that_torch_does_not_see(
    told: dict[str, Any], visible: str | None, words: str, do: str
) -> None:
    _, finding = torch(Answer(facts(**told)), gpus=2, visible=visible)
    assert finding.level == "warning"
    assert words in finding.says
    assert do in finding.do
    _, finding = torch(Answer(facts(**told)), "a", on_gpu=("a",), gpus=1, visible=visible)
    assert finding.level == "problem"
    assert finding.says.endswith("and a wants one")


def test_gpus_that_torch_sees() -> None:
    _, finding = torch(Answer(facts(built="12.8", gpus=[["H200", 150 * GIB]])), gpus=1)
    assert finding == Finding("ok", "GPU 0", "H200, 161 GB, computes")


def test_rows_of_the_drivers_tool() -> None:
    text = (
        "0, NVIDIA H200, 143771, 143000, 570.1\n1, Old, [N/A], [N/A], 570.1\nWarning: something\n"
    )
    big, old = rows(text)
    assert big == Gpu("0", "NVIDIA H200", 143771 * 2**20, 143000 * 2**20, "570.1")
    assert old.memory is None
    first, second = doctor_gpu.judge(2, 2, [big, old], None)
    assert first.says == "NVIDIA H200, 151 GB, 150 GB free, driver 570.1"
    assert second.says == "Old, memory not told, driver 570.1"


@pytest.mark.parametrize(
    ("count", "nodes", "fault", "level", "words"),
    [
        (0, 0, None, "ok", "no NVIDIA GPU"),
        (2, 2, None, "note", "not there to say more"),
        (0, 1, None, "warning", "no driver answers"),
        (0, 1, "couldn't communicate with the driver", "warning", "couldn't communicate"),
    ],
)
def test_drivers(count: int, nodes: int, fault: str | None, level: str, words: str) -> None:
    (finding,) = doctor_gpu.judge(count, nodes, [], fault)
    assert finding.level == level
    assert words in finding.says
    assert bool(finding.do) == (level != "ok")


def test_an_image_brings_a_build_for_every_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Answer({"system": "AVX2 = 1", "gpu": False})
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert len(doctor_llama.judge(answer, {"avx2", "fma"}, {}, [], [])) == 2
    (tmp_path / "image").touch()
    assert len(doctor_llama.judge(answer, {"avx2", "fma"}, {}, [], [])) == 1
