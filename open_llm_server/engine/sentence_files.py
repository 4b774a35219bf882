"""The files that sentence-transformers puts beside a checkpoint: pooling, lengths, letter case.

Owns which of them are understood; what is not is refused, never left out. Knows no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import WeightsError

Pooling = Literal["mean", "cls"]

_OLD_NAMES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""A flag for each kind of pooling, before there was one field `pooling_mode`."""
_STEPS = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class SentenceFiles:
    """What they say; the defaults are those of a checkpoint without them."""

    pooling: Pooling = "mean"
    most_tokens: int | None = None
    """The longest input that the model was made for, begin and end token included."""
    lower_case: bool = False
    """Texts are made lower case before the tokenizer sees them."""


def read_sentence_files(folder: Path) -> SentenceFiles:
    """Reads them where they are. Raises WeightsError for a model that does more than pool, or
    pools in a way that is not known here."""
    steps = _steps(folder)
    if steps is None:
        return SentenceFiles()
    transformer = _read(folder / steps["Transformer"] / "sentence_bert_config.json") or {}
    pooling_path = folder / steps["Pooling"] / "config.json"
    pooling = _read(pooling_path)
    if pooling is None:
        raise WeightsError(f"{pooling_path} is missing; download the whole model again")
    most = transformer.get("max_seq_length")
    return SentenceFiles(
        pooling=_pooling(pooling, pooling_path),
        most_tokens=most if isinstance(most, int) else None,
        lower_case=transformer.get("do_lower_case") is True,
    )


def _steps(folder: Path) -> dict[str, str] | None:
    """The folder of each step of `modules.json`; `None` where there is no such file."""
    path = folder / "modules.json"
    modules = _read(path)
    if modules is None:
        return None
    try:
        # `type` is a class; older and newer releases keep them in different modules.
        found = {str(step["type"]).rpartition(".")[2]: str(step["path"]) for step in modules}
    except (TypeError, KeyError):
        raise WeightsError(f"{path} is no list of steps; download the model again") from None
    for name in found:
        if name not in _STEPS:
            raise WeightsError(
                f"{path}: step {name!r} is not supported, only {', '.join(_STEPS)}; vectors "
                "without it would be those of another model: serve one that has no such step"
            )
    for name in ("Transformer", "Pooling"):
        if name not in found:
            raise WeightsError(
                f"{path}: there is no step {name!r}, so it does not say how a text becomes one "
                "vector; serve a sentence-transformers model, or remove the file for the mean "
                "of the hidden states"
            )
    return found


def _pooling(settings: Any, path: Path) -> Pooling:
    mode: Any = settings.get("pooling_mode") if isinstance(settings, dict) else None
    if mode is None and isinstance(settings, dict):
        mode = [name for flag, name in _OLD_NAMES.items() if settings.get(flag)]
    modes = mode if isinstance(mode, list) else [mode]
    if modes == ["mean"]:
        return "mean"
    if modes == ["cls"]:
        return "cls"
    raise WeightsError(
        f"{path}: pooling {' and '.join(map(str, modes)) or 'unset'} is not supported, only mean "
        "or cls; serve a model that pools in one of these ways"
    )


def _read(path: Path) -> Any:
    """The JSON of `path`; `None` where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}; download the model again") from error
