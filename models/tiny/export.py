"""Writes `tiny` from its Hugging Face folder to GGUF (f32, f16 or q8_0) for llama.cpp.

Owns the names of tensors and metadata on the llama.cpp side; knows nothing about training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

DType = Literal["f32", "f16", "q8_0"]
Array = npt.NDArray[Any]

HERE = Path(__file__).resolve().parent
KINDS: dict[str, gguf.GGMLQuantizationType] = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
FILE_TYPES: dict[str, gguf.LlamaFileType] = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`."""
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    _, _, layer, *rest = name.split(".")
    return f"blk.{layer}.{LAYER_NAMES['.'.join(rest[:-1])]}.weight"


def interleave(weight: Array, heads: int) -> Array:
    """Rows of a Q or K matrix in llama.cpp's order.

    transformers rotates element i with i + half, llama.cpp's llama rotates neighbours.
    """
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    neighbours: Array = halves.swapaxes(1, 2).reshape(rows, columns)
    return neighbours


def tensors(hf_dir: Path) -> dict[str, Array]:
    """All tensors by their GGUF name, in llama.cpp's row order, as float32."""
    config = _json(hf_dir / "config.json")
    found: dict[str, Array] = {}
    for name, weight in sorted(load_file(hf_dir / "model.safetensors").items()):
        array = weight.astype(np.float32)
        if name.endswith("q_proj.weight"):
            array = interleave(array, config["num_attention_heads"])
        elif name.endswith("k_proj.weight"):
            array = interleave(array, config["num_key_value_heads"])
        found[gguf_name(name)] = array
    return found


def write_gguf(hf_dir: Path, out_path: Path, dtype: DType) -> Path:
    """Writes the model in the given number format; the file appears whole or not at all."""
    hf_dir, out_path = Path(hf_dir), Path(out_path)
    unfinished = out_path.with_name(out_path.name + ".part")
    writer = gguf.GGUFWriter(unfinished, "llama")
    _write_architecture(writer, _json(hf_dir / "config.json"))
    writer.add_file_type(FILE_TYPES[dtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _write_vocabulary(writer, hf_dir)
    for name, array in tensors(hf_dir).items():
        # Norms stay in float32: llama.cpp multiplies them without conversion.
        kind = KINDS[dtype] if array.ndim == 2 else KINDS["f32"]
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.replace(out_path)
    return out_path


def _write_architecture(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_name("tiny")
    writer.add_description("The built-in model of open-llm-server")
    writer.add_license("apache-2.0")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(_rope_theta(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _rope_theta(config: dict[str, Any]) -> float:
    # transformers 5 moved the base frequency into `rope_parameters`.
    return float(config.get("rope_parameters", config)["rope_theta"])


def _write_vocabulary(writer: gguf.GGUFWriter, hf_dir: Path) -> None:
    tokenizer = _json(hf_dir / "tokenizer.json")
    settings = _json(hf_dir / "tokenizer_config.json")
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    special = {entry["content"] for entry in tokenizer["added_tokens"] if entry["special"]}
    ordered = sorted(vocabulary, key=lambda token: vocabulary[token])
    kinds = [
        gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in ordered
    ]
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(ordered)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(vocabulary[settings["bos_token"]])
    writer.add_eos_token_id(vocabulary[settings["eos_token"]])
    writer.add_eot_token_id(vocabulary[settings["eos_token"]])
    writer.add_pad_token_id(vocabulary[settings["pad_token"]])
    writer.add_add_bos_token(settings["add_bos_token"])
    writer.add_add_eos_token(settings["add_eos_token"])
    writer.add_chat_template(settings["chat_template"])


def _json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hf", type=Path, default=HERE / "hf")
    parser.add_argument("--out", type=Path, default=HERE / "tiny-q8_0.gguf")
    parser.add_argument("--dtype", choices=sorted(KINDS), default="q8_0")
    given = parser.parse_args()
    write_gguf(given.hf, given.out, given.dtype)


if __name__ == "__main__":
    main()
