"""What a related method trains beside its student: its optimiser, and its place in the checkpoints."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from response_priming.distill.trainer import optimizer_of
from response_priming.errors import InputError
from response_priming.methods.base import Method

FILE = "beside.pt"


class Beside(TrainerCallback):
    """Steps what is trained beside the student with it, by an optimiser of the same kind and its own learning rate.

    Each checkpoint holds its weights, its optimiser and the tokens spent so far; the student's folder has none of them.
    """

    def __init__(self, method: Method, checkpoint: str | None) -> None:
        """Go on from a checkpoint, where there is one."""
        self.method, module = method, method.beside()
        named = dict(module.named_parameters()) if module else {}
        self.weights = {name: weight for name, weight in named.items() if weight.requires_grad}
        kind, usual = optimizer_of(method.run)
        options: dict[str, Any] = usual | {"lr": method.beside_rate}
        self.optimizer = kind(self.weights.values(), **options) if self.weights else None
        if checkpoint:
            kept = torch.load(Path(checkpoint) / FILE, map_location="cpu", weights_only=True)
            method.spent.update(kept["spent"])
            for name, weight in self.weights.items():
                weight.data.copy_(kept["weights"][name])
            if self.optimizer:
                self.optimizer.load_state_dict(kept["optimizer"])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **known: Any) -> None:  # noqa: ARG002
        """With the student's step: clipped as it is, and at the same point of the schedule."""
        if self.optimizer is None:
            return
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), args.max_grad_norm)
        if not norm.isfinite():
            raise InputError(
                f"distill, step {state.global_step + 1}: the gradient of what is trained beside the student is not "
                "finite; the last checkpoint is from before, and a lower learning rate may help"
            )
        share = known["optimizer"].param_groups[0]["lr"] / self.method.run.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.method.beside_rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Write it to the checkpoint."""
        optimizer = self.optimizer.state_dict() if self.optimizer else None
        weights = {name: weight.data for name, weight in self.weights.items()}
        kept = {"weights": weights, "optimizer": optimizer, "spent": dict(self.method.spent)}
        torch.save(kept, Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE)
