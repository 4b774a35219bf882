"""A BentoML service of the plain kind, run by the contract tests in BentoML's own workers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from typing import Any

import bentoml.legacy

EMOJI = "\N{GRINNING FACE}"
cancelled: list[str] = []


class Toy(bentoml.legacy.Runnable):
    SUPPORTED_RESOURCES = ("cpu",)
    SUPPORTS_CPU_MULTI_THREADING = True

    @bentoml.legacy.Runnable.method
    async def big(self, size: str) -> AsyncGenerator[str, None]:
        # One letter first, so that no read of an even number of bytes ends between characters.
        yield "x" + EMOJI * int(size)

    @bentoml.legacy.Runnable.method
    async def repeats(self, text: str) -> AsyncGenerator[str, None]:
        for letter in text:
            yield letter

    @bentoml.legacy.Runnable.method
    async def silent(self, name: str) -> AsyncGenerator[str, None]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(name)
            raise
        yield ""

    @bentoml.legacy.Runnable.method
    async def breaks(self, _: str) -> AsyncGenerator[str, None]:
        yield '{"start":{"prompt_tokens":1}}\n'
        raise ValueError("a secret reason")

    @bentoml.legacy.Runnable.method
    async def endless(self, name: str) -> AsyncGenerator[str, None]:
        try:
            while True:
                yield '{"alive":{}}\n'
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            cancelled.append(name)
            raise

    @bentoml.legacy.Runnable.method
    async def facts(self, _: str) -> AsyncGenerator[str, None]:
        wanted = ("CUDA_VISIBLE_DEVICES", "TOY_THREADS")
        environment = {name: os.environ.get(name) for name in wanted}
        facts = {"cancelled": cancelled, "environment": environment}
        yield json.dumps({"info": facts}) + "\n"

    @bentoml.legacy.Runnable.method
    def plain_and_broken(self, _: str) -> Any:
        raise ValueError("not an exception of BentoML's")


runner = bentoml.legacy.Runner(Toy, name="toy")
svc = bentoml.legacy.Service("toy", runners=[runner])
