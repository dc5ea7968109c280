"""Method: how a student is made of what its teacher gave, in the steps that related methods of distillation change.

A related method is a subclass in a file of its own that overrides the steps in which it differs, and no other.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from response_priming.methods.student import load

if TYPE_CHECKING:
    from response_priming import params
    from response_priming.methods.losses import Loss


class Method:
    """The repaired method, and the released one: a student learns from what its teacher gave before the training."""

    def __init__(self, run: "params.DistillRun") -> None:
        self.run = run

    def prepare(self) -> Path | None:
        """The store with what the arm's teacher gave: responses or signals over prompts; None without a teacher."""
        return self.run.store

    def student(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The student with what is to be trained, ready to return `loss`, and its tokenizer."""
        return load(self.run)

    def loss(self, model: torch.nn.Module, batch: Mapping[str, Any], **counts: Any) -> "Loss":
        """The loss of a batch.

        Args:
            model: the student, in whatever the training wraps it.
            batch: tensors (see `examples.collate`).
            counts: `hard_tokens` and `soft_tokens` (see `losses.distillation`).
        """
        return cast("Loss", model(**batch, objective=self.run, **counts))
