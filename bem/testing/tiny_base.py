"""Tiny random base models for tests and examples: real Hugging Face folders, made in a second.

They have learned nothing. The tokenizer is byte level without merges, so any text can be encoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from bem.base import progress_bars_off
from bem.errors import InvalidInputError

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gpt2")
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")


def write_tiny_base(
    folder: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    hidden_size: int = 32,
    layers: int = 2,
    heads: int = 4,
    mlp_size: int = 48,
    max_positions: int = 512,
) -> Path:
    """Write a random model of `family` with its tokenizer; weights large enough to matter."""
    if family not in FAMILIES:
        raise InvalidInputError(f"Unknown family '{family}'. Known: {', '.join(FAMILIES)}.")
    tokenizer = byte_tokenizer()
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.1,
    }
    if family == "gpt2":
        shape |= {"n_embd": hidden_size, "n_layer": layers, "n_head": heads, "n_inner": mlp_size}
        shape |= {"n_positions": max_positions}
        shape |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    else:
        shape |= {"hidden_size": hidden_size, "num_hidden_layers": layers}
        shape |= {"num_attention_heads": heads, "num_key_value_heads": max(1, heads // 2)}
        shape |= {"intermediate_size": mlp_size, "max_position_embeddings": max_positions}
        shape |= {"head_dim": hidden_size // heads} if family in ("qwen3", "mistral") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**shape))
    with progress_bars_off():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_tokenizer() -> Any:
    """A byte-level tokenizer without merges: 256 bytes and three special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
