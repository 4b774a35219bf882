"""The models behind the API: looked up by name, their copies chosen by load."""

from __future__ import annotations

import difflib
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import ModelNotFound
from ..port import ModelPort
from .ask import Signature
from .settings import ServedModel


class Replica:
    """One copy of a model, and how many calls this process has in flight there."""

    def __init__(self, port: ModelPort) -> None:
        self.port = port
        self.in_flight = 0


class Model:
    """A served model as the routes see it."""

    def __init__(self, served: ServedModel, version: str) -> None:
        self.name = served.name
        self.aliases = served.aliases
        self.facts: dict[str, Any] = dict(served.facts)
        self.replicas = [Replica(port) for port in served.ports]
        self._turn = 0
        about = json.dumps([version, served.name, self.facts], sort_keys=True, default=str)
        self.fingerprint = "fp_" + hashlib.sha256(about.encode()).hexdigest()[:12]
        """Changes when the same request might be answered differently (OpenAI's field)."""

    def signature(self, id: str, *, called: str | None) -> Signature:
        """Of an answer to the request `id` that asked for this model by the name `called`."""
        return Signature(id, int(time.time()), called or self.name, self.fingerprint)

    def by_load(self) -> list[Replica]:
        """The copies, least busy first; equals take turns."""
        self._turn += 1
        turn = self._turn % len(self.replicas)
        turned = self.replicas[turn:] + self.replicas[:turn]
        return sorted(turned, key=lambda replica: replica.in_flight)


class Catalog:
    """All models. The first one answers requests that name none."""

    def __init__(self, models: Sequence[ServedModel], version: str) -> None:
        if not models:
            raise ValueError("an API needs at least one model")
        self._models = [Model(served, version) for served in models]
        self._by_name = {model.name: model for model in self._models}
        for model in self._models:
            for alias in model.aliases:
                self._by_name.setdefault(alias, model)

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models)

    def find(self, name: str | None) -> Model:
        """Raises ModelNotFound, which lists the models there are."""
        if name is None:
            return self._models[0]
        model = self._by_name.get(name)
        if model is None:
            raise self.unknown(name)
        return model

    def unknown(self, name: str) -> ModelNotFound:
        names = ", ".join(model.name for model in self._models)
        near = difflib.get_close_matches(name[:100], list(self._by_name), n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return ModelNotFound(
            f"no model {name[:100]!a} is served here; {hint}this server has: {names}",
            param="model",
        )
