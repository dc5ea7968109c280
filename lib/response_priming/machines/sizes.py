"""Sizes of a model from its config alone: parameters, bytes of weights, of the key-value cache, of training.

Decoders as Llama's: attention with grouped keys and values, a gated feed-forward layer, no biases worth counting.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from response_priming import paths
from response_priming.errors import InputError, first_problem

KNOWN = Path(__file__).with_name("models.json")
# Bits a weight of the linear layers takes, scales included: a scale of 16 bits and a zero of 4 for 128 weights (AWQ,
# GPTQ), one of 32 bits for 64 (NF4 of bitsandbytes).
BITS = {"nf4": 4.5, "awq": 4.16, "gptq": 4.16, "int8": 8, "fp8": 8}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Architecture(BaseModel):
    """What a config.json says of a decoder's shape, and how its checkpoint is stored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool = False
    quantization: str = "none"

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers of one block, by the names that `lora_targets` has for them."""
        hidden, wide = self.hidden_size, self.intermediate_size
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        attention = {"q_proj": (hidden, queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys)}
        attention["o_proj"] = (queries, hidden)
        return attention | {"gate_proj": (hidden, wide), "up_proj": (hidden, wide), "down_proj": (wide, hidden)}

    @property
    def linear(self) -> int:
        """Parameters of the blocks' linear layers, which is what quantisation takes."""
        return self.num_hidden_layers * sum(wide * high for wide, high in self.shapes.values())

    @property
    def embeddings(self) -> int:
        """Parameters of the embedding and, where it is not the same, of the head."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    @property
    def parameters(self) -> int:
        """All of them, with the norms'."""
        return self.linear + self.embeddings + (2 * self.num_hidden_layers + 1) * self.hidden_size

    @property
    def computed(self) -> int:
        """Parameters that multiply at every token: the embedding is looked up, the head is not."""
        return self.linear + self.vocab_size * self.hidden_size

    def adapter(self, rank: int, targets: list[str]) -> int:
        """Parameters of a LoRA adapter (Hu et al. 2021)."""
        return self.num_hidden_layers * rank * sum(sum(self.shapes[name]) for name in targets if name in self.shapes)

    def weights(self, quantization: str, dtype: str) -> float:
        """Bytes of the weights; `quantization` none: as the checkpoint is stored."""
        form = self.quantization if quantization == "none" else quantization
        linear = BITS[form] / 8 if form in BITS else BYTES[dtype]
        return self.linear * linear + (self.parameters - self.linear) * BYTES[dtype]

    def cache(self, dtype: str) -> int:
        """Bytes of keys and values that a token leaves in the cache: 2 x layers x key heads x head size x bytes."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * BYTES[dtype]

    def activations(self, tokens: int, dtype: str, *, again: bool) -> float:
        """Bytes that a forward pass keeps for its backward one, of so many tokens, attention fused.

        In 16 bits a layer keeps 18 bytes for each of the hidden size (Korthikanti et al. 2022, arXiv 2205.05198,
        equation 1 without its feed-forward part) and four vectors of the gated layer's width; where activations are
        computed `again`, each layer's input stays, and one layer's own.
        """
        layer = tokens * (18 * self.hidden_size + 8 * self.intermediate_size)
        scale = BYTES[dtype] / 2
        kept = tokens * 2 * self.hidden_size * self.num_hidden_layers
        return scale * (kept + layer if again else layer * self.num_hidden_layers)


def architecture(name: str, revision: str | None = None) -> Architecture:
    """A model's, by its hub id, its folder, or `embedded`; what is not in models.json is asked of the hub.

    Raises:
        InputError: neither known nor to be had, or the config is of another kind of model.
    """
    known = json.loads(KNOWN.read_text(encoding="utf-8"))
    if name in known:
        return Architecture(**known[name])
    file = paths.given(name) / "config.json"
    if not file.is_file():
        file = _from_hub(name, revision, list(known))
    return _read(name, json.loads(file.read_text(encoding="utf-8")))


def _from_hub(name: str, revision: str | None, known: list[str]) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except Exception as error:  # no such model, no network, no leave: each has classes of its own
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{name}: its config is neither here nor to be had ({said}); known: {', '.join(known)}"
        ) from None


def _read(name: str, config: dict[str, Any]) -> Architecture:
    config = config.get("text_config", config)
    heads = config.get("num_attention_heads", 1)
    found = {"num_key_value_heads": heads, "head_dim": config.get("hidden_size", 0) // heads} | {
        key: value for key, value in config.items() if value is not None
    }
    stored = (config.get("quantization_config") or {}).get("quant_method")
    try:
        return Architecture(**found | ({"quantization": stored} if stored else {}))
    except ValidationError as error:
        raise InputError(
            f"{name}: config.json: {first_problem(error, Architecture)}; allowed: a decoder as Llama's"
        ) from None
