"""Between the proto's messages and the native routes' JSON, both ways. Pure.

A request becomes the body that the native route reads, so that both doors refuse the same things
in the same words. Knows no call, no port and no grpc.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from ..api.json_text import dump
from ..core import SAMPLING_FIELDS, FinishReason
from ..errors import InvalidField
from . import v1

AT_ONCE = 16
"""Vectors that are written before others get a turn."""
_REASONS: Mapping[FinishReason, v1.FinishReason] = {
    "stop": v1.FINISH_REASON_STOP,
    "length": v1.FINISH_REASON_LENGTH,
}


def chat_body(data: bytes) -> bytes:
    """What `/chat` would have been sent. Raises InvalidField, as all that follow."""
    request = _parsed(v1.ChatRequest(), data)
    body = _head(request)
    if request.messages:
        body["messages"] = [
            {"role": message.role, "content": message.content} for message in request.messages
        ]
    return dump(body)


def complete_body(data: bytes) -> bytes:
    request = _parsed(v1.CompleteRequest(), data)
    body = _head(request)
    if request.HasField("n"):
        body["n"] = request.n
    return dump(body)


def embed_body(data: bytes) -> bytes:
    request = _parsed(v1.EmbedRequest(), data)
    inputs = [_input(item, place) for place, item in enumerate(request.input)]
    kinds = {type(item) for item in inputs}
    if len(kinds) > 1:
        raise InvalidField("input: texts and token ids do not mix; send one kind", param="input")
    return dump({**_model(request), "input": inputs})


async def chat_response(answer: Mapping[str, Any]) -> v1.ChatResponse:
    return v1.ChatResponse(
        message=answer["message"],
        finish_reason=_REASONS[answer["finish_reason"]],
        **_tail(answer),
    )


async def complete_response(answer: Mapping[str, Any]) -> v1.CompleteResponse:
    return v1.CompleteResponse(
        choices=answer["choices"],
        finish_reasons=[_REASONS[reason] for reason in answer["finish_reasons"]],
        **_tail(answer),
    )


async def embed_response(answer: Mapping[str, Any]) -> v1.EmbedResponse:
    """Gives others a turn now and then: there may be millions of numbers."""
    response = v1.EmbedResponse(
        id=answer["id"],
        model=answer["model"],
        dimension=answer["dimension"],
        pooling=answer["pooling"],
        usage=v1.Usage(**answer["usage"]),
    )
    for place, vector in enumerate(answer["embeddings"]):
        response.embeddings.add().values.extend(vector)
        if place % AT_ONCE == 0:
            await asyncio.sleep(0)
    return response


def stream_end(answer: Mapping[str, Any]) -> v1.StreamEnd:
    """`answer` is that of either route."""
    reasons = answer["finish_reasons"] if "choices" in answer else [answer["finish_reason"]]
    return v1.StreamEnd(
        finish_reasons=[_REASONS[reason] for reason in reasons],
        configuration=_configuration(answer["configuration"]),
        usage=v1.Usage(**answer["usage"]),
    )


def models_response(models: Iterable[Mapping[str, Any]]) -> v1.ListModelsResponse:
    """`models` as `/v1/models` lists them."""
    return v1.ListModelsResponse(models=[_model_of(facts) for facts in models])


def _parsed(message: Any, data: bytes) -> Any:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise InvalidField(
            f"this is no {message.DESCRIPTOR.full_name}: send what the proto describes "
            "(reflection gives it)"
        ) from error
    return message


def _model(request: Any) -> dict[str, Any]:
    return {"model": request.model} if request.HasField("model") else {}


def _head(request: Any) -> dict[str, Any]:
    """What chat and completion requests share."""
    body = _model(request)
    if request.HasField("prompt"):
        body["prompt"] = request.prompt
    for field, value in request.sampling.ListFields():
        body[field.name] = _jsonable(field.name, value)
    return body


def _jsonable(name: str, value: Any) -> Any:
    if isinstance(value, v1.StopSequence):
        return [*value.texts]
    # JSON has no words for these: no body could say them.
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidField(f"{name}: Input should be a finite number", param=name)
    return value


def _input(item: v1.EmbedInput, place: int) -> str | list[int]:
    match item.WhichOneof("form"):
        case "text":
            return item.text
        case "token_ids":
            return [*item.token_ids.ids]
        case _:
            param = f"input.{place}"
            raise InvalidField(f"{param}: send 'text' or 'token_ids'", param=param)


def _tail(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": answer["id"],
        "model": answer["model"],
        "configuration": _configuration(answer["configuration"]),
        "usage": v1.Usage(**answer["usage"]),
    }


def _configuration(values: Mapping[str, Any]) -> v1.Configuration:
    known = {name: values.get(name) for name in SAMPLING_FIELDS if values.get(name) is not None}
    if "stop_sequence" in known:
        known["stop_sequence"] = v1.StopSequence(texts=known["stop_sequence"])
    return v1.Configuration(sampling=v1.Sampling(**known), prompt=values.get("prompt"))


def _model_of(facts: Mapping[str, Any]) -> v1.Model:
    return v1.Model(
        id=facts["id"],
        family=facts.get("family") or "",
        status=facts["status"],
        aliases=facts["aliases"],
        context_length=facts["context_length"],
        capabilities=facts["capabilities"],
        embedding_dimension=facts["embedding_dimension"],
        copies=facts["copies"],
    )
