"""`/openapi.json`: an OpenAPI 3.1 document made from the same classes that read the bodies."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ..errors import (
    AuthenticationError,
    BodyTimeout,
    BodyTooLarge,
    DeadlineExceeded,
    EngineError,
    HostNotAllowed,
    MethodNotAllowed,
    ModelNotFound,
    OpenLLMError,
    QueueFull,
    RequestError,
    Unavailable,
    UnsupportedMediaType,
)
from .desk import Desk
from .exchange import Exchange
from .json_text import dump
from .probes import Alive, ModelAnswer, ModelsAnswer, Readiness
from .routes import GENERATE, GenerateRoute

_EVERYWHERE: tuple[type[OpenLLMError], ...] = (
    RequestError,
    HostNotAllowed,
    MethodNotAllowed,
    EngineError,
)
_GENERATING: tuple[type[OpenLLMError], ...] = (
    ModelNotFound,
    BodyTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
    QueueFull,
    Unavailable,
    DeadlineExceeded,
)
_REF = "#/components/schemas/{model}"
_WAITING = {
    name: {"description": words, "schema": {"type": "string"}}
    for name, words in (
        ("Retry-After", "Whole seconds after which another try has a chance."),
        ("Retry-After-Ms", "The same in milliseconds."),
    )
}


class ErrorBody(BaseModel):
    """Further fields hold facts, such as `n_prompt_tokens` and `n_ctx`."""

    message: str
    type: str
    param: str | None
    code: str
    request_id: str


class ErrorAnswer(BaseModel):
    error: ErrorBody


class Document:
    """Handler of `/openapi.json`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.respond(200, self._text)

    @functools.cached_property
    def _text(self) -> bytes:
        settings = self._desk.settings
        keys = bool(settings.api_key_hashes)
        return dump(document(settings.version, keys=keys, timeout_s=settings.timeout_s))


def document(version: str, *, keys: bool, timeout_s: float) -> dict[str, Any]:
    """The whole document. `keys`: whether callers must show an API key."""
    paths: dict[str, Any] = {
        route.path: {"post": _post(route, keys, timeout_s)} for route in GENERATE
    }
    paths |= _get_paths(keys)
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "open-llm-server",
            "version": version,
            "description": "Many open language models behind one server. Unknown request fields "
            "are accepted and listed in the X-Ignored-Parameters header.",
        },
        "paths": paths,
        "components": {"schemas": _schemas()},
    }
    if keys:
        made["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
        }
    return made


def _schemas() -> dict[str, Any]:
    bodies: list[type[BaseModel]] = [route.body for route in GENERATE]
    answers: list[type[BaseModel]] = [route.answer for route in GENERATE]
    answers += [Alive, Readiness, ModelAnswer, ModelsAnswer, ErrorAnswer]
    _, made = models_json_schema(
        [
            *((model, "validation") for model in dict.fromkeys(bodies)),
            *((model, "serialization") for model in dict.fromkeys(answers)),
        ],
        ref_template=_REF,
    )
    found: dict[str, Any] = made["$defs"]
    found["ChatBody"]["oneOf"] = [
        {
            "properties": {one: {"type": kind}, other: {"type": "null"}},
            "required": [one],
        }
        for one, kind, other in (("prompt", "string", "messages"), ("messages", "array", "prompt"))
    ]
    return found


def _post(route: GenerateRoute, keys: bool, timeout_s: float) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if not route.always_streams:
        content["application/json"] = {"schema": _schema(route.answer)}
    if route.streams:
        # OpenAPI 3.1 has no words for the single events: docs/api.md describes them.
        content["text/event-stream"] = {}
    return {
        "operationId": _operation("post", route.path),
        "summary": route.summary,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _schema(route.body)}},
        },
        "parameters": [
            _header("X-Request-Id", "Named in the log; answered back.", {"type": "string"}),
            _header(
                "X-Request-Timeout",
                "Seconds that the request may take; at most the server's own limit.",
                {"type": "number", "exclusiveMinimum": 0, "maximum": timeout_s},
            ),
        ],
        "responses": {
            "200": {
                "description": "The answer; as events when 'stream' is true.",
                "content": content,
                "headers": {
                    "X-Ignored-Parameters": {
                        "description": "Fields of the body that nobody reads.",
                        "schema": {"type": "string"},
                    }
                },
            }
        }
        | _errors(*_EVERYWHERE, *_GENERATING, keys=keys),
    } | _security(keys)


def _get_paths(keys: bool) -> dict[str, Any]:
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    json_type, text = "application/json", {"type": "string"}
    return {
        "/": _get("/", "A page about this server.", "text/html", text),
        "/livez": _get("/livez", "The server is up.", json_type, _schema(Alive)),
        "/readyz": _get(
            "/readyz", "Every model can answer.", json_type, _schema(Readiness), busy=Readiness
        ),
        "/metrics": _get("/metrics", "Prometheus metrics.", "text/plain", text, keys=keys),
        "/openapi.json": _get(
            "/openapi.json", "This document.", json_type, {"type": "object"}, keys=keys
        ),
        "/v1/models": _get(
            "/v1/models", "All models.", json_type, _schema(ModelsAnswer), keys=keys
        ),
        "/v1/models/{model}": _get(
            "/v1/models/{model}",
            "One model.",
            json_type,
            _schema(ModelAnswer),
            ModelNotFound,
            keys=keys,
        )
        | {"parameters": [model]},
    }


def _get(
    path: str,
    summary: str,
    kind: str,
    schema: Mapping[str, Any],
    *errors: type[OpenLLMError],
    keys: bool = False,
    busy: type[BaseModel] | None = None,
) -> dict[str, Any]:
    answer = {"description": summary, "content": {kind: {"schema": schema}}}
    responses = {"200": answer} | _errors(*_EVERYWHERE, *errors, keys=keys)
    if busy is not None:
        responses["503"] = {
            "description": "Not every model can answer.",
            "headers": _WAITING,
            "content": {"application/json": {"schema": _schema(busy)}},
        }
    operation = {"operationId": _operation("get", path), "summary": summary, "responses": responses}
    return {"get": operation | _security(keys)}


def _errors(*errors: type[OpenLLMError], keys: bool) -> dict[str, Any]:
    kinds: list[type[OpenLLMError]] = [*errors, *([AuthenticationError] if keys else [])]
    made: dict[str, Any] = {}
    for kind in sorted(kinds, key=lambda kind: kind.status):
        made[str(kind.status)] = {
            "description": (kind.__doc__ or kind.code).split("\n")[0],
            "content": {"application/json": {"schema": _schema(ErrorAnswer)}},
        } | ({"headers": _WAITING} if issubclass(kind, QueueFull | Unavailable) else {})
    return made


def _security(keys: bool) -> dict[str, Any]:
    return {"security": [{"bearer": []}, {"header": []}]} if keys else {}


def _schema(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _header(name: str, words: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": words,
        "schema": dict(schema),
    }


def _operation(method: str, path: str) -> str:
    words = "".join(char if char.isalnum() else " " for char in path).split()
    return "_".join([method, *words]) if words else f"{method}_landing"
