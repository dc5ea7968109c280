"""A random Llama of two layers with a byte-level tokenizer: what tests use in place of a real model."""

import os
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from response_priming.machines import stand_ins
from response_priming.machines.stand_ins import CHAT_TEMPLATE, TINY, VOCABULARY, llama, tokenizer

__all__ = ["CHAT_TEMPLATE", "ENVIRONMENT", "HEADS", "LAYERS", "PATIENCE", "VOCABULARY", "llama", "tokenizer"]

# For a make that a test runs: what a make around the tests tells its own jobs is not for it.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
# Seconds after which something that a test waits for is taken to hang. No test says how fast a machine must be: a slow
# one, or one that does other work beside, may take ten times as long as a quiet one.
PATIENCE = 120
LAYERS, HEADS = TINY.num_hidden_layers, TINY.num_attention_heads


def padded_llama() -> LlamaForCausalLM:
    """The model with seven outputs more, which have no token and are likely."""
    model = llama()
    model.resize_token_embeddings(len(VOCABULARY) + 7, mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[len(VOCABULARY) :] = torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    return model.eval()


def save_model(folder: Path, model: LlamaForCausalLM | None = None) -> Path:
    """Save both as a transformers folder; returns it."""
    return stand_ins.save(folder, model or llama())
