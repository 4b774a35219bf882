"""Settings of published checkpoints: their keys, with values of the kinds that they have."""

from __future__ import annotations

from typing import Any

from open_llm_server.bloom import Bloom
from open_llm_server.dolly import Dolly
from open_llm_server.flan_t5 import FlanT5
from open_llm_server.gpt_neox import GPTNeoX
from open_llm_server.minilm import MiniLM
from open_llm_server.runnable import LLMRunnable
from open_llm_server.stablelm import StableLM

PUBLISHED: dict[str, tuple[type[LLMRunnable], dict[str, Any]]] = {
    "flan-t5": (
        FlanT5,
        {
            "architectures": ["T5ForConditionalGeneration"],
            "d_ff": 2048,
            "d_kv": 64,
            "d_model": 768,
            "decoder_start_token_id": 0,
            "dropout_rate": 0.1,
            "eos_token_id": 1,
            "feed_forward_proj": "gated-gelu",
            "initializer_factor": 1.0,
            "is_encoder_decoder": True,
            "layer_norm_epsilon": 1e-06,
            "model_type": "t5",
            "n_positions": 512,
            "num_decoder_layers": 12,
            "num_heads": 12,
            "num_layers": 12,
            "output_past": True,
            "pad_token_id": 0,
            "relative_attention_max_distance": 128,
            "relative_attention_num_buckets": 32,
            "task_specific_params": {
                "summarization": {"early_stopping": True, "num_beams": 4, "prefix": "summarize: "},
                "translation_en_to_de": {"max_length": 300, "prefix": "translate English to "},
            },
            "tie_word_embeddings": False,
            "transformers_version": "4.23.1",
            "use_cache": True,
            "vocab_size": 32128,
        },
    ),
    "bloom": (
        Bloom,
        {
            "apply_residual_connection_post_layernorm": False,
            "attention_dropout": 0.0,
            "attention_softmax_in_fp32": True,
            "architectures": ["BloomForCausalLM"],
            "bias_dropout_fusion": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_dropout": 0.0,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "masked_softmax_fusion": True,
            "model_type": "bloom",
            "n_embed": 1024,
            "n_inner": None,
            "n_layer": 24,
            "num_attention_heads": 16,
            "offset_alibi": 100,
            "pad_token_id": 3,
            "pretraining_tp": 1,
            "seq_length": 2048,
            "skip_bias_add": True,
            "skip_bias_add_qkv": False,
            "slow_but_exact": False,
            "unk_token_id": 0,
            "use_cache": True,
            "vocab_size": 250880,
        },
    ),
    "dolly": (
        Dolly,
        {
            "architectures": ["GPTNeoXForCausalLM"],
            "bos_token_id": 0,
            "custom_pipelines": {
                "text-generation": {
                    "impl": "instruct_pipeline.InstructionTextGenerationPipeline",
                    "pt": "AutoModelForCausalLM",
                    "tf": "TFAutoModelForCausalLM",
                }
            },
            "eos_token_id": 0,
            "hidden_act": "gelu",
            "hidden_size": 2560,
            "initializer_range": 0.02,
            "intermediate_size": 10240,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048,
            "model_type": "gpt_neox",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_parallel_residual": True,
            "vocab_size": 50280,
        },
    ),
    "pythia": (
        GPTNeoX,
        {
            "attention_bias": True,
            "attention_probs_dropout_prob": 0,
            "hidden_dropout_prob": 0,
            "hidden_size": 768,
            "model_type": "gpt_neox",
            "rope_scaling": None,
            "rotary_pct": 0.25,
            "vocab_size": 50304,
        },
    ),
    "stablelm": (
        StableLM,
        {
            "model_type": "stablelm",
            "num_key_value_heads": 32,
            "partial_rotary_factor": 0.25,
            "rope_theta": 10000,
            "torch_dtype": "float16",
            "use_qkv_bias": True,
            "vocab_size": 100352,
        },
    ),
    "minilm": (
        MiniLM,
        {
            "_name_or_path": "nreimers/MiniLM-L6-H384-uncased",
            "gradient_checkpointing": False,
            "hidden_act": "gelu",
            "hidden_size": 384,
            "id2label": {"0": "LABEL_0", "1": "kernels"},
            "label2id": {"LABEL_0": 0, "kernels": 1},
            "model_type": "bert",
            "position_embedding_type": "absolute",
            "type_vocab_size": 2,
            "vocab_size": 30522,
        },
    ),
}
"""The family and config.json of each: all keys that are published, or those that are its own."""
LOST = {
    "flan-t5": {"task_specific_params", "output_past", "dropout_rate", "initializer_factor"},
    "dolly": {"custom_pipelines", "initializer_range", "torch_dtype"},
    "pythia": {"attention_probs_dropout_prob", "hidden_dropout_prob"},
    "stablelm": {"torch_dtype"},
    "minilm": {"_name_or_path", "gradient_checkpointing", "id2label", "label2id"},
}
"""What the library does not need to compute an answer. Everything else must get to it."""
UNUSED = {"architectures", "transformers_version", "use_cache"}
