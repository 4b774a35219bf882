"""Merges LoRA adapters in PEFT's format into a loaded model.

Owns the check that an adapter fits: the library leaves out what does not, without an error.
`check_adapter` needs no library, so that a command line can refuse a folder at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, WeightsError
from .checkpoint_keys import refuse_code
from .checkpoint_view import ADAPTER as CONFIG
from .checkpoint_view import ADAPTER_WEIGHTS as WEIGHTS
from .checkpoint_view import adapter_view
from .safetensors_header import read_header
from .torch_checkpoint import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHOWN = 3


def merge(model: PreTrainedModel, folders: Sequence[Path]) -> PreTrainedModel:
    """`model` with the adapters in `folders` added to its weights, in order.

    Raises ConfigurationError without peft, WeightsError for an adapter that cannot be read or
    does not fit `model`, which is spoilt then.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigurationError(
            "--lora needs peft; run: pip install 'open-llm-server[torch]'"
        ) from error
    for folder in folders:
        check_adapter(folder)
        model = _merge(peft, model, folder)
    return model


def check_adapter(folder: Path) -> None:
    """Raises WeightsError unless `folder` holds a LoRA adapter in safetensors."""
    if folder.is_file():
        raise WeightsError(
            f"the adapter {folder} is a file; name the folder that holds {CONFIG} and {WEIGHTS}"
            + (" (GGUF adapters are for GGUF models)" if folder.suffix == ".gguf" else "")
        )
    if not (folder / CONFIG).is_file():
        raise WeightsError(f"there is no {CONFIG} in the adapter's folder {folder}; name another")
    settings = read_json(folder / CONFIG)
    refuse_code(folder / CONFIG, settings)
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise WeightsError(f"the adapter {folder} is of type {kind!r}; only LORA ones are merged")
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise WeightsError(
            f"there is no {WEIGHTS} in the adapter's folder {folder}"
            + (
                ", only a pickled adapter_model.bin, which may run code; load it where you trust "
                "it and save it again with peft's save_pretrained"
                if pickled
                else "; download the whole adapter"
            )
        )
    read_header(folder / WEIGHTS)


def _merge(peft: Any, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="pt") as file:
        given = set(file.keys())
    try:
        with adapter_view(folder) as view:
            wrapped = peft.PeftModel.from_pretrained(
                model, str(view), torch_device=str(model.device), local_files_only=True
            )
        wanted = set(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False))
        strange = given - wanted - set(wrapped.state_dict())
    except Exception as error:  # whatever a strange adapter leads to
        raise _misfit(folder, " ".join(str(error).split())[:300]) from error
    if strange:
        raise _misfit(folder, f"the model has no place for {_some(strange)}")
    if lacking := wanted - given:
        raise _misfit(folder, f"it lacks {_some(lacking)}")
    try:
        merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise WeightsError(f"the adapter {folder} holds values that are not numbers") from error
    return merged


def _misfit(folder: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"the adapter {folder} does not fit the model: {reason}; use it with the model it was "
        "trained on"
    )


def _some(names: set[str]) -> str:
    shown = sorted(names)[:_SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
