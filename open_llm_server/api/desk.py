"""What all doors of one API worker share, and how any of them has a request answered."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import Receive

from ..errors import ModelNotFound
from .answer import Answer
from .ask import Ask
from .catalog import Catalog, Model
from .metrics import Meter, Metrics
from .pulse import Drain, Pulse
from .settings import ApiSettings, ServedModel
from .visit import Visit


@dataclass
class Desk:
    settings: ApiSettings
    catalog: Catalog
    pulse: Pulse
    drain: Drain

    @classmethod
    def of(cls, models: Sequence[ServedModel], settings: ApiSettings) -> Desk:
        catalog = Catalog(models, settings.version)
        return cls(
            settings, catalog, Pulse(catalog), Drain(settings.runtime_dir, settings.drain_timeout_s)
        )

    @functools.cached_property
    def metrics(self) -> Metrics:
        return Metrics()

    def find(self, name: str | None, visit: Visit) -> Model:
        """The model that a request names. Raises ModelNotFound."""
        try:
            model = self.catalog.find(name)
        except ModelNotFound:
            # Never the name that was sent: anyone could fill the metrics with names.
            visit.model = "unknown"
            raise
        visit.model = model.name
        return model

    def answer(
        self,
        model: Model,
        ask: Ask,
        visit: Visit,
        *,
        timeout_s: float,
        receive: Receive | None = None,
    ) -> Answer:
        """Begins to answer; `receive` tells when the client leaves, where the door does not."""
        return Answer(
            model,
            ask.request,
            visit,
            catalog=self.catalog,
            drain=self.drain,
            settings=self.settings,
            meter=Meter(self.metrics, visit, model.name),
            timeout_s=timeout_s,
            receive=receive,
        )
