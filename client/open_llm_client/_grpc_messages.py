"""Between requests, answers and the proto's messages. Pure; knows no call and no grpc.

Raises Misshapen for messages that are no answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from . import _v1
from ._answers import (
    Answer,
    ChatAnswer,
    CompleteAnswer,
    Delta,
    EmbedAnswer,
    Health,
    Model,
    Usage,
)
from ._json_answers import Misshapen
from ._requests import SAMPLING, Request

SERVING = 1
"""Of grpc.health.v1."""
_REASONS: dict[int, str] = {_v1.FINISH_REASON_STOP: "stop", _v1.FINISH_REASON_LENGTH: "length"}


def written(request: Request) -> bytes:
    """The message for `request`."""
    fields = request.fields
    message: Any
    if request.kind == "chat":
        turns = [_v1.Message(**turn) for turn in fields.get("messages", ())]
        message = _v1.ChatRequest(messages=turns, **_generation(fields))
    elif request.kind == "complete":
        message = _v1.CompleteRequest(n=fields.get("n"), **_generation(fields))
    elif request.kind == "embed":
        items = [_embed_input(item) for item in fields["input"]]
        message = _v1.EmbedRequest(input=items, model=fields.get("model"))
    else:
        message = _v1.ListModelsRequest()
    data: bytes = message.SerializeToString()
    return data


def answer(request: Request, data: bytes) -> Answer:
    """What a call that does not stream answered."""
    if request.kind == "chat":
        chat = _parsed(_v1.ChatResponse(), data)
        return ChatAnswer(
            message=chat.message, finish_reason=_reason(chat.finish_reason), **_tail(chat, chat)
        )
    if request.kind == "complete":
        complete = _parsed(_v1.CompleteResponse(), data)
        return CompleteAnswer(
            choices=[*complete.choices],
            finish_reasons=[_reason(reason) for reason in complete.finish_reasons],
            **_tail(complete, complete),
        )
    if request.kind == "embed":
        return _embed(_parsed(_v1.EmbedResponse(), data))
    return models(data)


def models(data: bytes) -> list[Model]:
    """What ListModels answered."""
    return [_model(model) for model in _parsed(_v1.ListModelsResponse(), data).models]


def is_serving(data: bytes) -> bool:
    """What the standard health service answered."""
    return bool(_parsed(_HEALTH(), data).status == SERVING)


def health(serving: bool, models: list[Model]) -> Health:
    """As `/readyz` says it. A server that is not serving though all its models are is draining."""
    states = {model.id: model.status for model in models}
    if serving:
        return Health("ready", states)
    well = bool(states) and all(state == "ready" for state in states.values())
    return Health("draining" if well else "not_ready", states)


class Gathering:
    """A stream's messages, put together."""

    def __init__(self, request: Request) -> None:
        self._chat = request.kind == "chat"
        self._start: Any = None
        self._texts: dict[int, list[str]] = {}
        self.answer: ChatAnswer | CompleteAnswer | None = None

    @property
    def begun(self) -> bool:
        """Whether the server has accepted the request."""
        return self._start is not None

    def take(self, data: bytes) -> Delta | None:
        """The delta of one message, where it has text."""
        kind = _v1.ChatStreamResponse if self._chat else _v1.CompleteStreamResponse
        message = _parsed(kind(), data)
        event = message.WhichOneof("event")
        if event is None:
            return None  # a newer server's
        if (event == "start") != (self._start is None) or self.answer is not None:
            raise Misshapen("the messages of its stream are out of order")
        if event == "start":
            self._start = message.start
        elif event == "end":
            self.answer = self._whole(message.end)
        elif message.delta.text:
            delta = Delta(message.delta.text, message.delta.index)
            if delta.index < 0:
                raise Misshapen("the index of a delta is no number of a choice")
            self._texts.setdefault(delta.index, []).append(delta.text)
            return delta
        return None

    def _whole(self, end: Any) -> ChatAnswer | CompleteAnswer:
        reasons = [_reason(reason) for reason in end.finish_reasons]
        texts = ["".join(self._texts.get(index, ())) for index in range(len(reasons))]
        if not reasons or max(self._texts, default=0) >= len(reasons):
            raise Misshapen("its end does not go with its choices")
        tail = _tail(self._start, end)
        if self._chat:
            return ChatAnswer(message=texts[0], finish_reason=reasons[0], **tail)
        return CompleteAnswer(choices=texts, finish_reasons=reasons, **tail)


def _generation(fields: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: fields[name] for name in SAMPLING if name in fields}
    if "stop_sequence" in given:
        given["stop_sequence"] = _v1.StopSequence(texts=given["stop_sequence"])
    return {
        "model": fields.get("model"),
        "prompt": fields.get("prompt"),
        "sampling": _v1.Sampling(**given),
    }


def _embed_input(item: str | list[int]) -> _v1.EmbedInput:
    if isinstance(item, str):
        return _v1.EmbedInput(text=item)
    return _v1.EmbedInput(token_ids=_v1.TokenIds(ids=item))


def _parsed(message: Any, data: bytes) -> Any:
    try:
        message.ParseFromString(data)
    except DecodeError:
        name = message.DESCRIPTOR.full_name
        raise Misshapen(f"its bytes are no {name}") from None
    return message


def _reason(value: int) -> str:
    if value == _v1.FINISH_REASON_UNSPECIFIED:
        raise Misshapen("it does not say why it ended")
    return _REASONS.get(value, "unknown")


def _tail(named: Any, told: Any) -> dict[str, Any]:
    """`named` has id and model, `told` has what is known at the end."""
    if not named.id or not named.model:
        raise Misshapen("it has no id or no model")
    return {
        "configuration": _configuration(told.configuration),
        "usage": _usage(told.usage),
        "model": named.model,
        "id": named.id,
    }


def _configuration(configuration: Any) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys((*SAMPLING, "prompt"))
    values |= {field.name: value for field, value in configuration.sampling.ListFields()}
    if values["stop_sequence"] is not None:
        values["stop_sequence"] = [*values["stop_sequence"].texts]
    if configuration.HasField("prompt"):
        values["prompt"] = configuration.prompt
    return values


def _usage(usage: Any) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        cached_tokens=usage.cached_tokens,
    )


def _embed(message: Any) -> EmbedAnswer:
    vectors = [[*vector.values] for vector in message.embeddings]
    if not message.id or any(len(vector) != message.dimension for vector in vectors):
        raise Misshapen("the length of a vector is not the dimension")
    return EmbedAnswer(
        embeddings=vectors,
        dimension=message.dimension,
        pooling=message.pooling,
        usage=_usage(message.usage),
        model=message.model,
        id=message.id,
    )


def _model(model: Any) -> Model:
    def optional(name: str) -> int | None:
        return getattr(model, name) if model.HasField(name) else None

    return Model(
        id=model.id,
        family=model.family,
        status=model.status,
        aliases=[*model.aliases],
        context_length=optional("context_length"),
        capabilities=[*model.capabilities],
        embedding_dimension=optional("embedding_dimension"),
    )


def _health_class() -> Any:
    """HealthCheckResponse of grpc.health.v1; its request for the whole server is empty.

    In a pool of its own: the standard package may be there too.
    """
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="health.proto", package="grpc.health.v1")
    message = file.message_type.add(name="HealthCheckResponse")
    message.field.add(
        name="status", number=1, type=field_type.TYPE_INT32, label=field_type.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    named = pool.FindMessageTypeByName("grpc.health.v1.HealthCheckResponse")
    return message_factory.GetMessageClass(named)


_HEALTH = _health_class()
