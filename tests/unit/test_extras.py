"""What is said of packages that are missing or of another release; their absence is pretended.

`tests/integration/test_package_extras.py` has the same in environments that lack them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from open_llm_server import extras
from open_llm_server.errors import StartError
from open_llm_server.extras import GRPC, LLAMA_CPP, TORCH, Extra, require

REQUIRES = (
    "numpy>=1.26",
    'torch>=2.10; extra == "torch"',
    'transformers<6,>=5.10; extra == "torch"',
    'peft<1,>=0.20; extra == "torch"',
    'llama-cpp-python==0.3.36; extra == "llama-cpp"',
    'torch>=99; extra == "all"',
)
PIP_TORCH = "; run: pip install 'open-llm-server[torch]'"


class Pretended:
    """An environment with these distributions in it, by version; `None`: without metadata."""

    PackageNotFoundError = metadata.PackageNotFoundError

    def __init__(
        self, installed: Mapping[str, str | None], requires: Sequence[str] | None = REQUIRES
    ) -> None:
        self.installed = installed
        self._requires = requires

    def version(self, name: str) -> str:
        if version := self.installed.get(name):
            return version
        raise metadata.PackageNotFoundError(name)

    def requires(self, name: str) -> Sequence[str]:
        if self._requires is None:
            raise metadata.PackageNotFoundError(name)
        return self._requires

    def find_spec(self, module: str) -> object | None:
        name = {**LLAMA_CPP.packages, **TORCH.packages, **GRPC.packages}[module]
        return SimpleNamespace() if name in self.installed else None


@pytest.fixture
def within(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    extras._requirements.cache_clear()


def enter(within: pytest.MonkeyPatch, pretended: Pretended) -> None:
    extras._requirements.cache_clear()
    within.setattr(extras, "metadata", pretended)
    within.setattr(extras, "find_spec", pretended.find_spec)


@pytest.mark.parametrize(
    ("extra", "modules", "installed", "says"),
    [
        (TORCH, ["torch"], {}, "it needs torch, not installed here" + PIP_TORCH),
        (
            TORCH,
            ["torch", "transformers", "peft"],
            {},
            "it needs torch, transformers and peft, not installed here" + PIP_TORCH,
        ),
        (
            TORCH,
            ["torch", "transformers"],
            {"torch": "2.13.0", "transformers": "4.57.1"},
            "it needs transformers<6,>=5.10, and 4.57.1 is installed" + PIP_TORCH,
        ),
        (
            TORCH,
            ["torch", "transformers"],
            {"transformers": "6.0.0"},
            "it needs torch, not installed here; transformers<6,>=5.10, and 6.0.0 is installed"
            + PIP_TORCH,
        ),
        (
            LLAMA_CPP,
            [],
            {"llama-cpp-python": "0.3.37"},
            f"it needs llama-cpp-python==0.3.36, and 0.3.37 is installed{LLAMA_CPP.hint}; "
            "run: pip install 'open-llm-server[llama-cpp]'",
        ),
        (
            GRPC,
            [],
            {name: "1.0" for name in GRPC.packages.values() if name != "grpcio-status"},
            "it needs grpcio-status, not installed here; run: pip install 'open-llm-server[grpc]'",
        ),
    ],
)
def test_what_is_said(
    within: pytest.MonkeyPatch,
    extra: Extra,
    modules: list[str],
    installed: Mapping[str, str | None],
    says: str,
) -> None:
    enter(within, Pretended(installed))
    with pytest.raises(StartError) as caught:
        require(extra, "it", *modules)
    assert caught.value.message == says
    assert "\n" not in says


@pytest.mark.parametrize(
    "installed",
    [
        {"torch": "2.10.0"},
        {"torch": "2.13.0+cpu"},
        {"torch": "2.15.0.dev20261101+cu130"},
        {"torch": None},  # put there without pip
        {"torch": "2.13.0", "transformers": "4.57.1"},  # nobody asks for it
    ],
)
def test_what_is_good_enough(
    within: pytest.MonkeyPatch, installed: Mapping[str, str | None]
) -> None:
    enter(within, Pretended(installed))
    require(TORCH, "it", "torch")


def test_where_the_server_itself_is_not_installed(within: pytest.MonkeyPatch) -> None:
    enter(within, Pretended({"torch": "1.0"}, requires=None))
    require(TORCH, "it", "torch")
    with pytest.raises(StartError, match="peft, not installed"):
        require(TORCH, "it", "torch", "peft")


def test_what_is_installed_here_will_do() -> None:
    for extra in (LLAMA_CPP, TORCH, GRPC):
        require(extra, "it")


def test_in_an_image_nobody_is_told_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Extra("torch", {"no_such_module_here": "no-such-package"})
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(StartError, match=r"run: pip install 'open-llm-server\[torch\]'$"):
        require(absent, "bloom")
    (tmp_path / "image").touch()
    with pytest.raises(StartError, match="; take an image with all engines") as raised:
        require(absent, "bloom")
    assert "pip" not in raised.value.message and absent.way_out in raised.value.message
