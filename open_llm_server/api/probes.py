"""Routes that say how the server and its models are: probes, metrics, the list of models."""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ..errors import Draining
from .catalog import Model
from .desk import Desk
from .exchange import Exchange, refusal_headers
from .json_text import dump
from .pulse import DRAIN_RETRY_S, ModelCondition, State


class Alive(BaseModel):
    status: Literal["alive"]


class ImportProgress(BaseModel):
    """How far a model's weights are on their way here."""

    phase: str
    done: int
    """Bytes where the phase moves bytes, else steps; so is `total`."""
    total: int | None
    eta_s: float | None


class Readiness(BaseModel):
    """`ready` only when every model can answer."""

    status: Literal["ready", "not_ready", "draining"]
    models: dict[str, State]
    importing: dict[str, ImportProgress] | None = None
    """Models whose weights are being imported, where there are such."""


class ModelAnswer(BaseModel):
    """OpenAI's fields, and what a caller may want to know before asking."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    status: State
    aliases: list[str]
    context_length: int | None
    capabilities: list[str]


class ModelsAnswer(BaseModel):
    object: Literal["list"]
    data: list[ModelAnswer]


class Probes:
    """Handlers of the routes that answer GET."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._created = int(time.time())

    async def livez(self, exchange: Exchange) -> None:
        await exchange.respond(200, dump({"status": "alive"}) + b"\n")

    async def readyz(self, exchange: Exchange) -> None:
        conditions = await self._desk.pulse.conditions()
        states = {name: told.state for name, told in conditions.items()}
        waits = [told.retry_after for told in conditions.values() if told.state != "ready"]
        status = "not_ready" if waits else "ready"
        if self._desk.drain.active():
            status, waits = "draining", [DRAIN_RETRY_S]
        headers = refusal_headers(Draining("", retry_after=max(waits))) if waits else []
        importing = {
            name: dict(told.progress) for name, told in conditions.items() if told.progress
        }
        answer: dict[str, Any] = {"status": status, "models": states}
        body = dump(answer | ({"importing": importing} if importing else {})) + b"\n"
        await exchange.respond(503 if waits else 200, body, headers)

    async def metrics(self, exchange: Exchange) -> None:
        conditions = await self._desk.pulse.conditions()
        text, kind = self._desk.metrics.render(
            (name, [dict(copy.facts) for copy in told.copies]) for name, told in conditions.items()
        )
        await exchange.respond(200, text, [(b"content-type", kind.encode())])

    async def models(self, exchange: Exchange) -> None:
        conditions = await self._desk.pulse.conditions()
        data = [self._about(model, conditions[model.name]) for model in self._desk.catalog]
        await exchange.respond(200, dump({"object": "list", "data": data}) + b"\n")

    async def model(self, exchange: Exchange) -> None:
        model = self._desk.catalog.find(exchange.scope["path_params"]["model"])
        conditions = await self._desk.pulse.conditions()
        await exchange.respond(200, dump(self._about(model, conditions[model.name])) + b"\n")

    def _about(self, model: Model, told: ModelCondition) -> dict[str, Any]:
        return about(model, told) | {"object": "model", "created": self._created}


def about(model: Model, told: ModelCondition) -> dict[str, Any]:
    """What every door says of a model."""
    limits = told.facts.get("limits", {})
    vectors = limits.get("embedding_size")
    writes = ["chat", "completion"] if told.facts.get("generates", True) else []
    more = {name: value for name, value in model.facts.items() if value is not None}
    return more | {
        "id": model.name,
        "owned_by": "open-llm-server",
        "status": told.state,
        "aliases": [*model.aliases],
        "context_length": limits.get("context_length", model.facts.get("context_length")),
        "capabilities": [*writes, *(["embedding"] if vectors else [])],
        "embedding_dimension": vectors,
        "copies": len(told.copies),
    }
