"""Template processes that a test starts, and what it gives them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable

import pytest

from open_llm_server.engine.template_process import TemplateProcess

LINUX = sys.platform == "linux"
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"

Start = Callable[..., TemplateProcess]


@pytest.fixture(name="start")
async def starting() -> AsyncIterator[Start]:
    """Makes processes, and closes them. Modules that want it take it in by an assignment."""
    processes = []

    def make(template: str, **limits: float) -> TemplateProcess:
        process = TemplateProcess(template, {"bos_token": "<s>", "eos_token": "</s>"}, **limits)
        processes.append(process)
        return process

    yield make
    for process in processes:
        await process.close()


def user(content: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": content}]]
