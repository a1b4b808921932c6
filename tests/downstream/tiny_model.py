"""Models of a few thousand weights, which chance has set, with a tokenizer of bytes: a training takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages -%}
<|{{ message['role'] }}|>{{ message['content'] }}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""

_SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 16, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip

_WINDOWS: dict[str, dict[str, Any]] = {
    "gemma3_text": {"sliding_window": 24, "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]},
    "mistral": {"sliding_window": 24},
    "qwen2": {"sliding_window": 24, "use_sliding_window": True, "max_window_layers": 2},
}  # fmt: skip


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each byte, and five more."""
    special = ["<pad>", "<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: number for number, text in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    found.chat_template = CHAT_TEMPLATE
    return found


def make_model(folder: Path, kind: str = "gemma3_text", dtype: torch.dtype = torch.float32) -> Path:
    """Write a model of a kind, as transformers names it, with its tokenizer; return its folder."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    settings = AutoConfig.for_model(
        kind,
        **_SIZES,
        **_WINDOWS.get(kind, {}),
        vocab_size=len(tokenizer),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(settings, dtype=dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
