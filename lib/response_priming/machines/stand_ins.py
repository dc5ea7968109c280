"""Stand-ins that need no hub: models of random weights in any size, a tokenizer of bytes, a whole project on them."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from response_priming import paths
from response_priming.machines.sizes import Architecture

VOCABULARY = {symbol: number for number, symbol in enumerate(["<end>", *sorted(ByteLevel.alphabet())])}
CHAT_TEMPLATE = (
    "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TINY = Architecture(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    intermediate_size=64, vocab_size=len(VOCABULARY),
)  # fmt: skip
ARMS = ["undistilled", "fine-tuned", "none", "teacher"]


def tokenizer(vocabulary: int = len(VOCABULARY)) -> PreTrainedTokenizerFast:
    """A token for every byte, and one that both ends a sequence and pads it, as the embedded model has.

    Args:
        vocabulary: how many tokens it has; those beyond the bytes are in no text.
    """
    unused = {f"<unused-{number}>": number for number in range(len(VOCABULARY), vocabulary)}
    raw = Tokenizer(BPE(VOCABULARY | unused, merges=[]))
    raw.pre_tokenizer, raw.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    reader = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>")
    reader.chat_template = CHAT_TEMPLATE
    return reader


def config(about: Architecture, spread: float = 0.3) -> LlamaConfig:
    """The configuration of a Llama of this shape.

    Args:
        spread: standard deviation of the weights. A tiny model needs large ones, or all tokens are about as likely.
    """
    shape = about.model_dump(exclude={"quantization"})
    return LlamaConfig(**shape, initializer_range=spread, bos_token_id=None, eos_token_id=0)


def llama(about: Architecture = TINY, spread: float = 0.3, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """A model of this shape (see `config`) on the default device, always the same one there."""
    torch.manual_seed(0)
    return cast("LlamaForCausalLM", AutoModelForCausalLM.from_config(config(about, spread), dtype=dtype).eval())


def save(folder: Path, model: LlamaForCausalLM, vocabulary: int = len(VOCABULARY)) -> Path:
    """Save a model and a tokenizer of so many tokens as a transformers folder; returns it."""
    model.save_pretrained(folder)
    tokenizer(vocabulary).save_pretrained(folder)
    return folder


def project(root: Path, model: Path, *, device: str = "auto") -> None:
    """A copy of the project in a folder, with a profile `tiny` on a model."""
    for name in ("Makefile", "setup.sh", "pyproject.toml", "requirements.lock", "CITATION.cff", "README.md"):
        shutil.copy(paths.ROOT / name, root / name)
    for name in ("lib", "notebooks", "params", "report"):
        shutil.copytree(paths.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    profile: dict[str, Any] = {
        "arms": ARMS,
        "problems": {"n_train": 6, "n_test": 6},
        "model": {"student": str(model), "dtype": "float32", "device": device},
        "generate": {"teacher": str(model), "worked_examples": 1, "response_tokens": 8, "generate_batch": 4},
        "distill": {"train_steps": 2, "train_batch": 2, "micro_batch": 2},
        "evaluate": {"answer_tokens": 8, "evaluate_batch": 4},
        "attention": {"attention_prompts": 2, "heatmaps": 1},
        "attribution": {"attribution_problems": 2, "gradient_steps": 2, "random_orders": 1},
    }
    (root / "params" / "tiny.yaml").write_text(json.dumps(profile), encoding="utf-8")  # which is YAML
