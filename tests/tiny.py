"""A random Llama of two layers with a byte-level tokenizer: what tests use in place of a real model."""

import os
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# For a make that a test runs: what a make around the tests tells its own jobs is not for it.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
# Seconds after which something that a test waits for is taken to hang. No test says how fast a machine must be: a slow
# one, or one that does other work beside, may take ten times as long as a quiet one.
PATIENCE = 120
LAYERS, HEADS = 2, 4
VOCABULARY = {symbol: number for number, symbol in enumerate(["<end>", *sorted(ByteLevel.alphabet())])}
CHAT_TEMPLATE = (
    "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def llama() -> LlamaForCausalLM:
    """The model, always the same one. Its weights are large enough that no two tokens are about equally likely."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": LAYERS, "vocab_size": len(VOCABULARY)}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": 2, "initializer_range": 0.3}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, bos_token_id=None, eos_token_id=0)).eval()


def padded_llama() -> LlamaForCausalLM:
    """The model with seven outputs more, which have no token and are likely."""
    model = llama()
    model.resize_token_embeddings(len(VOCABULARY) + 7, mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[len(VOCABULARY) :] = torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    return model.eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for every byte, and one that both ends a sequence and pads it, as the embedded model has."""
    raw = Tokenizer(BPE(VOCABULARY, merges=[]))
    raw.pre_tokenizer, raw.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_model(folder: Path, model: LlamaForCausalLM | None = None) -> Path:
    """Save both as a transformers folder; returns it."""
    (model or llama()).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
