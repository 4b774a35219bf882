"""Private data out; then a known answer that one model finds, or a new one that another writes."""

from __future__ import annotations

import math
import re
from typing import Any

import bentoml

from open_llm_server.errors import OpenLLMError
from open_llm_server.tiny import get_runner

# In earnest: `from open_llm_server import minilm` and minilm.get_runner(), llama.get_runner("…").
search = get_runner("search=tiny")
writer = get_runner("writer=tiny", temperature=0.0, max_tokens=60)
svc = bentoml.legacy.Service("two-models", runners=[search, writer])

KNOWN = [
    "Our shop opens at nine in the morning and closes at six.",
    "Parcels are sent on the day after the order.",
    "Shoes can be given back within thirty days.",
]
NEAR = 0.9
"""From which likeness on a known answer is given. The built-in model thinks all texts alike; for
`minilm` 0.6 is a good start."""
PRIVATE = {
    "<e-mail>": re.compile(r'(?:"[^"\n]{1,64}"|[^\s@<>"(),:;]{1,64})@[\w-]+(?:\.[\w-]+)+'),
    "<phone>": re.compile(r"(?<!\w)\+?\(?\d(?:[ ./()-]{0,3}\d){6,}(?!\w)"),
}
"""The usual spellings; what is spelled otherwise stays, and any long number counts as a phone's."""
_vectors: list[tuple[float, ...]] = []


def redact(text: str) -> str:
    """`text` without what looks like an e-mail address or a phone number."""
    for name, pattern in PRIVATE.items():
        text = pattern.sub(name, text)
    return text


async def nearest(text: str) -> tuple[str, float]:
    """The known answer that is most like `text`, and how much, up to 1."""
    if not _vectors:
        _vectors[:] = (await search.embed(KNOWN)).embeddings
    (asked,) = (await search.embed([text])).embeddings
    likeness = [sum(a * b for a, b in zip(asked, known, strict=True)) for known in _vectors]
    best = max(likeness)
    return KNOWN[likeness.index(best)], best


@svc.api(input=bentoml.io.Text(), output=bentoml.io.JSON())
async def ask(text: str, ctx: bentoml.Context) -> dict[str, Any]:
    try:
        return await reply(redact(text))
    except OpenLLMError as error:  # an empty question, one that is too long, a full queue
        ctx.response.status_code = error.status
        if error.retry_after is not None:
            ctx.response.headers["Retry-After"] = str(math.ceil(error.retry_after))
        return {"error": error.message}


async def reply(question: str) -> dict[str, Any]:
    known, likeness = await nearest(question)
    if likeness >= NEAR:
        return {"question": question, "answer": known, "by": "search"}
    answer = await writer.chat(question)
    return {"question": question, "answer": answer.message, "by": "writer"}
