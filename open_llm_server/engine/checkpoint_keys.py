"""Which keys of a checkpoint's JSON files ask for code, and which ones a library may see.

Two walls, one behind the other: what asks for code is refused (`refuse_code`), and what is not on
a list of plain settings is never handed on (`plain_config` and its neighbours), so that a key
that nobody has thought of yet does nothing. docs/adr/0013 gives the reasons. Pure: values in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import WeightsError

DEEPEST = 64
"""Objects within objects; real files have up to some ten."""

_COMMON = {
    "model_type", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id",
    "decoder_start_token_id", "is_encoder_decoder", "tie_word_embeddings", "hidden_act",
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "is_decoder", "add_cross_attention",
}  # fmt: skip
_ROPE = {
    "rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "attention_bias",
    "use_parallel_residual", "head_dim", "num_key_value_heads",
}  # fmt: skip
CONFIG: dict[str, set[str]] = {
    "t5": _COMMON | {
        "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "n_positions",
        "relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon",
        "feed_forward_proj", "dense_act_fn", "is_gated_act", "scale_decoder_outputs",
    },
    "bloom": _COMMON | {
        "n_layer", "n_head", "n_embed", "seq_length", "layer_norm_epsilon",
        "apply_residual_connection_post_layernorm",
    },
    "gpt_neox": _COMMON | _ROPE | {"rotary_pct", "rotary_emb_base", "layer_norm_eps"},
    "stablelm": _COMMON | _ROPE | {"layer_norm_eps", "use_qkv_bias", "qk_layernorm"},
    "llama": _COMMON | _ROPE | {"rms_norm_eps", "mlp_bias"},
    "bert": _COMMON | {"type_vocab_size", "layer_norm_eps", "position_embedding_type"},
}  # fmt: skip
"""The keys of config.json that decide what is computed, by model type."""
_ROPE_KEYS = {
    "rope_type", "type", "factor", "rope_theta", "partial_rotary_factor", "low_freq_factor",
    "high_freq_factor", "original_max_position_embeddings", "attention_factor", "beta_fast",
    "beta_slow", "mscale", "mscale_all_dim", "truncate", "short_factor", "long_factor",
}  # fmt: skip
_TOKEN_NAMES = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
    "additional_special_tokens", "extra_special_tokens",
}  # fmt: skip
_TOKENIZER = _TOKEN_NAMES | {
    "tokenizer_class", "model_max_length", "add_bos_token", "add_eos_token", "add_prefix_space",
    "do_lower_case", "strip_accents", "tokenize_chinese_chars", "legacy", "extra_ids",
    "keep_accents", "trim_offsets", "clean_up_tokenization_spaces", "added_tokens_decoder",
}  # fmt: skip
_ADAPTER = {
    "peft_type", "task_type", "r", "lora_alpha", "target_modules", "exclude_modules", "bias",
    "fan_in_fan_out", "use_rslora", "use_dora", "lora_bias", "rank_pattern", "alpha_pattern",
    "layers_to_transform", "layers_pattern", "modules_to_save", "target_parameters",
}  # fmt: skip

_ASK_FOR_CODE = {
    "custom_generate": "it names a program that replaces the generation of text",
    "kernel_config": "it names compiled code to fetch from a hub",
    "kernels": "it names compiled code to fetch from a hub",
    "use_kernels": "it asks for compiled code from a hub",
    "fusion_config": "it replaces parts of the library",
    "distributed_config": "it replaces parts of the library",
    "transformers_weights": "it sends the loader to another file",
}
"""Keys that some library acts upon, and how. With an empty value they ask for nothing."""
_ATTENTION = re.compile(r"_?(attn|experts)_implementation")
_ATTENTION_NAMES = {
    "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3",
    "flash_attention_4", "grouped_mm", "batched_mm",
}  # fmt: skip
"""Ways to compute attention (or experts) that are the library's own; any other is fetched."""
_MODULES = {
    "parent_library": re.compile(r"transformers(\.[a-z_]\w*)*", re.ASCII),
    "megatron_core": re.compile(r"megatron\.core"),
}
"""Keys that name a Python module to import, and the names that are written as a rule. Most adapters
have these two; what is written in them is not handed on either."""
_CLASS = re.compile(r"[A-Za-z]\w*", re.ASCII)
_STEP = re.compile(r"sentence_transformers(\.[a-z_]\w*)*\.[A-Z]\w*", re.ASCII)
_STEP_FOLDER = re.compile(r"(?!\.)[\w.-]*", re.ASCII)
_TEMPLATE_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)


def refuse_code(path: Path, content: Any) -> None:
    """Raises WeightsError where `content`, read from `path`, asks for code anywhere within it."""
    for key, value in _pairs(path, content):
        if why := _fault(key, value):
            raise WeightsError(
                f"{path} asks for code of its own ({key}: {why}), and this server runs none from "
                "a checkpoint; use a checkpoint of the same model in the format of transformers "
                "itself"
            )


def refuse_steps(path: Path, content: Any) -> None:
    """Raises WeightsError for a modules.json whose steps are not sentence-transformers' own."""
    for step in content if isinstance(content, list) else ():
        kind, folder = (
            (step.get("type"), step.get("path", "")) if isinstance(step, dict) else (None, None)
        )
        if not isinstance(kind, str) or not _STEP.fullmatch(kind):
            raise WeightsError(
                f"{path} asks for code of its own (type: {str(kind)[:80]!r} is no class of "
                "sentence_transformers), and this server runs none from a checkpoint; use a model "
                "without such a step"
            )
        if not isinstance(folder, str) or not _STEP_FOLDER.fullmatch(folder):
            raise WeightsError(
                f"{path} leads out of its folder (path: {str(folder)[:80]!r}); use another model"
            )


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config.json decides what is computed. Raises WeightsError for a type that is not
    known here."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG:
        raise WeightsError(
            f"models of type {str(kind)[:40]!r} are not computed here, only {', '.join(CONFIG)}; "
            "use a GGUF file of this model with family llama"
        )
    keys = CONFIG[kind]
    found = _only(config, keys)
    for key in keys & {"rope_parameters", "rope_scaling"}:
        if isinstance(inner := config.get(key), dict):
            found[key] = _only(inner, _ROPE_KEYS)
    return found


def plain_tokenizer(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a tokenizer_config.json decides how text is split."""
    found = _only(config, _TOKENIZER)
    for key in _TOKEN_NAMES | {"added_tokens_decoder"}:
        if isinstance(config.get(key), dict | list):
            found[key] = config[key]
    return found


def plain_adapter(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of an adapter_config.json decides how the adapter is merged."""
    found = _only(config, _ADAPTER)
    for key in ("rank_pattern", "alpha_pattern"):
        if isinstance(inner := config.get(key), dict):
            found[key] = {name: rank for name, rank in inner.items() if isinstance(rank, int)}
    return found


def _only(values: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    """The plain values of these keys: texts, numbers, lists of them."""
    return {key: values[key] for key in sorted(keys & set(values)) if _is_plain(values[key])}


def _is_plain(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(one is None or isinstance(one, str | int | float) for one in values)


def _pairs(path: Path, content: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    waiting = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise WeightsError(
                f"{path} has more than {DEEPEST} levels, which no real file has; download it again"
            )
        if isinstance(value, dict):
            yield from value.items()
            value = list(value.values())
        if isinstance(value, list):
            waiting += ((one, depth + 1) for one in value if isinstance(one, dict | list))


def _fault(key: str, value: Any) -> str | None:
    """Why this asks for code; `None` if it does not."""
    if key == "auto_map" and value is not None:
        return "it names classes in files beside it or on a hub"
    if value in (None, False, "", {}, []) or type(value) in (int, float):
        return None  # numbers stand beside words, in lists of tokens and of labels
    if key in _ASK_FOR_CODE:
        return _ASK_FOR_CODE[key]
    if key in _MODULES and not (isinstance(value, str) and _MODULES[key].fullmatch(value)):
        return "it names a Python module to import"
    if key == "trust_remote_code":
        return "it wants to be trusted"
    if key.endswith("_internal"):
        return "it sets what only the library itself may set"
    if _ATTENTION.fullmatch(key):
        return None if _are_own(value) else "it names compiled code to fetch from a hub"
    if key in ("tokenizer_class", "processor_class") and not _is_class(value):
        return "it names a class outside of the library"
    if key == "chat_template" and not _are_templates(value):
        return "it names its templates like files"
    return None


def _are_own(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else [value]
    return all(one is None or (isinstance(one, str) and one in _ATTENTION_NAMES) for one in values)


def _is_class(value: Any) -> bool:
    return isinstance(value, str) and _CLASS.fullmatch(value) is not None


def _are_templates(value: Any) -> bool:
    """One template, or several by names. Libraries have made names of files of such names."""
    if isinstance(value, list):
        names = [entry.get("name") if isinstance(entry, dict) else None for entry in value]
    else:
        names = list(value) if isinstance(value, dict) else []
    return isinstance(value, str | list | dict) and all(
        isinstance(name, str) and _TEMPLATE_NAME.fullmatch(name) for name in names
    )
