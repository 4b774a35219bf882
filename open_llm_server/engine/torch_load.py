"""Loads a checkpoint's weights into the library's model, adapters merged, on its device.

Reads safetensors only and runs no code from a checkpoint: the library sees no more of it than
`checkpoint_view` shows. The model is where our own computation
takes its weights from, and the reference in tests. Knows nothing of slots, batches or text.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers

from ..errors import ConfigurationError, StartError, WeightsError
from . import torch_int8
from .checkpoint_view import model_view
from .torch_checkpoint import Checkpoint
from .torch_devices import AUTO, check_device, choose_dtype
from .torch_quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["choose_dtype", "load_model"]

log = logging.getLogger(__name__)

ENCODERS = frozenset({"bert"})
UNNEEDED = ("pooler.",)
"""Parts that a checkpoint may leave out: nothing here computes with them."""
_SHOWN = 3


def load_model(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    device: str,
    lora: Sequence[str | Path] = (),
    gpus: int = 0,
) -> PreTrainedModel:
    """The model of `checkpoint`, for inference: in eval mode, without gradients.

    `device`: "cpu", "cuda:0", "mps", or "auto": the layers spread over the first `gpus` visible
    GPUs (0: all). All its parameters have `dtype`. `lora`: folders of PEFT adapters, merged in
    order. Raises WeightsError or ConfigurationError.
    """
    check_device(device)
    if checkpoint.model_type == "t5" and dtype is torch.float16:
        raise ConfigurationError(
            f"the values of {checkpoint.folder.name} (T5) do not fit into float16; use --dtype "
            "bfloat16 (as small) or float32"
        )
    if checkpoint.int8 and (lora or device == AUTO):
        raise ConfigurationError(
            f"the weights in {checkpoint.folder.name} are quantised, and neither take adapters nor "
            "go on several GPUs; import the model again, without --quantize"
        )
    options = _spread(gpus) if device == AUTO else {}
    try:
        with quiet():
            model = _load(checkpoint, dtype, options)
            if lora:
                from .torch_lora import merge

                model = merge(model, [Path(folder) for folder in lora])
            if device not in ("cpu", AUTO):
                model.to(torch.device(device))  # type: ignore[arg-type]  # their decorator hides it
    except torch.OutOfMemoryError as error:
        raise ConfigurationError(
            f"{checkpoint.folder} does not fit on {device}; use --dtype bfloat16, several GPUs, a "
            "smaller model, or --device cpu"
        ) from error
    _refuse_offloaded(model, checkpoint)
    for parameter in model.parameters():
        # The library keeps some in float32 for training.
        if parameter.is_floating_point() and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)
    model.requires_grad_(False)
    model.eval()  # type: ignore[no-untyped-call]  # theirs
    return model


def _load(checkpoint: Checkpoint, dtype: torch.dtype, options: dict[str, Any]) -> PreTrainedModel:
    folder = checkpoint.folder
    try:
        if checkpoint.int8:
            return cast(
                "PreTrainedModel", torch_int8.load(_class_for(checkpoint), checkpoint, dtype)
            )
        with model_view(checkpoint) as view:
            model, report = _class_for(checkpoint).from_pretrained(
                view,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except (torch.OutOfMemoryError, StartError):
        raise
    except Exception as error:  # whatever a strange configuration leads to
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise WeightsError(
            f"the model in {folder} cannot be loaded: {reason}. Download the folder again, or "
            "check that config.json belongs to these weights"
        ) from error
    model.name_or_path = model.config.name_or_path = str(folder)  # peft looks for files there
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(UNNEEDED))
    if missing:  # the library fills these with random values
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise WeightsError(
            f"the weights in {folder} lack {', '.join(missing[:_SHOWN])}{more}; download the whole "
            "checkpoint, or check that config.json belongs to these weights"
        )
    if report["unexpected_keys"]:
        log.debug("%s: not used: %s", folder, sorted(report["unexpected_keys"]))
    loaded: PreTrainedModel = model
    return loaded


def _class_for(checkpoint: Checkpoint) -> Any:
    if checkpoint.model_type in ENCODERS:
        return transformers.AutoModel
    if checkpoint.model_type == "t5" or checkpoint.config.get("is_encoder_decoder"):
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


def _spread(gpus: int) -> dict[str, Any]:
    """What accelerate's device map needs, for the first `gpus` GPUs."""
    if importlib.util.find_spec("accelerate") is None:
        raise ConfigurationError(
            "one model on several GPUs needs accelerate: pip install 'open-llm-server[torch]', or "
            "name one device, such as --device gpu:0"
        )
    there = torch.cuda.device_count()
    if gpus > there:
        raise ConfigurationError(f"{gpus} GPUs are wanted and there are {there}; ask for fewer")
    places = range(gpus or there)
    # Without a word on the CPU's memory, what does not fit would go there, layer by layer.
    room = {place: torch.cuda.mem_get_info(place)[0] for place in places}
    return {"device_map": AUTO, "max_memory": room}


def _refuse_offloaded(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ConfigurationError(
            f"{checkpoint.folder} does not fit on the GPUs there are; use --dtype bfloat16, a "
            "smaller model, or --device cpu"
        )
