"""What is said of Python, of packages and of extras."""

from __future__ import annotations

import pytest

from open_llm_server.doctor_packages import (
    EXTRAS,
    judge_extra,
    judge_python,
    judge_requirements,
    requirements,
)
from open_llm_server.extras import TORCH


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 9), "warning"), ((3, 10), "ok"), ((3, 13), "ok"), ((3, 14), "warning")],
)
def test_python(version: tuple[int, int], level: str) -> None:
    finding = judge_python(version, "3.x")
    assert finding.level == level
    assert bool(finding.do) == (level == "warning")


def versions(**known: str) -> dict[str, str | None]:
    return {name: known.get(name) for name in TORCH.packages.values()}


def test_an_extra_that_is_there() -> None:
    all_there: dict[str, str | None] = dict.fromkeys(TORCH.packages.values(), "2.0")
    (finding,) = judge_extra(TORCH, all_there, "somebody wants it", told=False)
    assert finding.level == "ok"
    assert "torch 2.0, transformers 2.0" in finding.says


def test_an_extra_that_is_missing() -> None:
    (finding,) = judge_extra(TORCH, versions(), "somebody wants it", told=False)
    assert finding.level == "note"
    assert finding.says == "not installed: somebody wants it"
    assert finding.do == "pip install 'open-llm-server[torch]'"
    assert judge_extra(TORCH, versions(), "somebody wants it", told=True) == []


def test_an_extra_that_is_there_in_part() -> None:
    known = versions(torch="2.13", transformers="5", safetensors="1")
    (finding,) = judge_extra(TORCH, known, "somebody wants it", told=False)
    assert finding.level == "note"
    assert finding.says.endswith("not installed: accelerate and peft")


NEEDS = [
    "bentoml<1.5,>=1.4.39",
    "uvloop>=0.21; sys_platform == 'nowhere'",
    "torch>=2.10; extra == 'torch'",
    "peft>=0.20; extra == 'torch'",
    "pytest>=8; extra == 'else'",
]


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        ({"bentoml": "1.4.39"}, [("ok", "1 that the server needs")]),
        ({"bentoml": "1.4.39", "torch": "2.13.0+cpu"}, [("ok", "1 that")]),
        ({"bentoml": "1.4.40rc1"}, [("ok", "1 that")]),
        ({"bentoml": "1.5.0"}, [("warning", "bentoml 1.5.0 is installed")]),
        ({}, [("problem", "bentoml is not installed")]),
        (
            {"bentoml": "1.3", "torch": "2.1", "pytest": "1"},
            [("warning", "bentoml 1.3"), ("warning", "torch 2.1")],
        ),
    ],
)
def test_bounds(installed: dict[str, str], found: list[tuple[str, str]]) -> None:
    findings = judge_requirements(NEEDS, installed.get)
    assert [finding.level for finding in findings] == [level for level, _ in found]
    for finding, (level, words) in zip(findings, found, strict=True):
        assert words in finding.says
        assert finding.do.startswith("pip install '") == (level != "ok")


def test_a_tree_that_was_never_installed() -> None:
    (finding,) = judge_requirements([], lambda _: None)
    assert finding.level == "note"


def test_this_release() -> None:
    """Its own metadata can be read, and each extra says who wants it."""
    assert any(text.startswith("bentoml") for text in requirements())
    assert [extra.name for extra, _ in EXTRAS] == ["llama-cpp", "torch", "grpc"]
