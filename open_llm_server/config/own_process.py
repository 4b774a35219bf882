"""The environment of this very process, where a command works without a runner of its own."""

from __future__ import annotations

import os

from .devices import worker_env
from .machine import detect
from .resolved import ModelPlan


def enter(plan: ModelPlan) -> None:
    """Sets what a runner of `plan` would start with; before any engine's library is imported."""
    os.environ.update(worker_env(plan))


def own_gpus() -> tuple[str, ...]:
    """What CUDA calls the GPUs that this process may use."""
    return detect(os.environ, gpus=True).gpus
