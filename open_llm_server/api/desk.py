"""What all routes of one app share, made once when the app is built."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from .catalog import Catalog
from .metrics import Metrics
from .pulse import Drain, Pulse
from .settings import ApiSettings, ServedModel


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
