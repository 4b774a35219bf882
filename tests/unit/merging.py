"""Merging configuration on a known machine, with no variables but those that are given."""

from __future__ import annotations

from typing import Any

from sample_families import MACHINE

from open_llm_server.config.merge import resolve
from open_llm_server.config.resolved import ModelPlan, Resolved


def merged(models: str = "bloom", **given: Any) -> Resolved:
    return resolve(models, **{"environ": {}, "machine": MACHINE, **given})


def one(models: str = "bloom", **given: Any) -> ModelPlan:
    (plan,) = merged(models, **given).models
    return plan
