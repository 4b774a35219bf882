"""A new-style BentoML service over a running open-llm-server; streams do not cross `depends`."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import bentoml
import open_llm_client


@bentoml.service
class Tidy:
    """The step of one's own: whole values in, whole values out, in a process of its own."""

    @bentoml.api
    def question(self, text: str) -> str:
        words = " ".join(text.split())
        return words[:1].upper() + words[1:].lower() + ("" if words.endswith((".", "?")) else "?")


@bentoml.service(traffic={"timeout": 600})
class Assistant:
    """What callers talk to."""

    tidy = bentoml.depends(Tidy)

    def __init__(self) -> None:
        # The server's address and key: OPEN_LLM_ENDPOINT and OPEN_LLM_API_KEY.
        self.client = open_llm_client.create()

    @bentoml.api
    async def ask(self, text: str, model: str | None = None) -> AsyncGenerator[str, None]:
        question = await self.tidy.to_async.question(text)
        try:
            async with await self.client.async_chat(question, model=model, stream=True) as answer:
                async for delta in answer:
                    yield delta.text
        except open_llm_client.OpenLLMError as error:  # the status has been sent already
            yield f"\n[error: {error}]"
