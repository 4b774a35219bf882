"""`svc` of a Bento that `open-llm-server build` made: our service, over what the Bento holds.

Finds the models' weights wherever BentoML keeps those of this Bento: in its model store, or inside
the Bento itself in a container. Every process of `bentoml serve` imports it.
"""

from __future__ import annotations

import os
from pathlib import Path

import bentoml.exceptions
import bentoml.models

from .bento_contents import SETTINGS, BentoModel, read_models
from .config.vocabulary import CONFIGURATION, MODELS
from .errors import ConfigurationError, OpenLLMError, WeightsError


def _enter(folder: Path) -> None:
    """Sets what `service` reads. The processes of one server all find the same."""
    specs = [model.spec(_weights(model)) for model in read_models(folder)]
    models = ",".join(spec.replace(",", "\\,") for spec in specs)
    if os.environ.get(MODELS, "") not in ("", models):
        raise ConfigurationError(
            f"{MODELS} is set, and this Bento serves what it was built for ({', '.join(specs)}); "
            "unset it, or build a Bento for those models"
        )
    os.environ[MODELS] = models
    if not os.environ.get(CONFIGURATION):
        os.environ[CONFIGURATION] = str(folder / SETTINGS)


def _weights(model: BentoModel) -> Path | None:
    if model.weights is None:
        return None
    try:
        return Path(bentoml.models.get(model.weights).path)
    except bentoml.exceptions.NotFound as error:
        raise WeightsError(
            f"{model.name}: its weights, {model.weights}, are not in BentoML's model store; move "
            "Bentos with `bentoml export` and `bentoml import`, which take them along"
        ) from error


try:
    _enter(Path(__file__).resolve().parents[1])
    from .service import svc
except OpenLLMError as wrong:  # in one line, as `service` has it
    raise bentoml.exceptions.BentoMLException(wrong.message) from wrong

__all__ = ["svc"]
