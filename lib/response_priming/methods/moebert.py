"""MoEBERT: a fine-tuned model's feed-forward layers are cut into experts, which learn from the model that they were.

Zuo et al. 2022 (arXiv 2204.07675, NAACL 2022, code github.com/SimiaoZuo/MoEBERT) compress BERT so: hidden units of a
layer are ranked by importance; the first ones are in every expert, and the others are dealt in turn until the experts
are full, so that one token costs the parameters of one expert. The id of a token says which expert reads it. The
experts are trained together with everything else, the dense parent X' with distributions p' beside them:

    CE + weight * [ sum over l of |X_l - X'_l|^2 / |X'_l|^2  +  (KL(p || p') + KL(p' || p)) / 2 ]

l = 0 are the embeddings and the last one is what the head reads, as in the code. Both terms are means over the tokens
that are scored, where the code's hidden states include padding. BERT's hidden states are normalised, so its squares are
just means over channels; those of a decoder grow a hundredfold with depth, and so are taken relative to the parent's.

The paper's importance of a unit, |w_1 . dL/dw_1 + w_2 . dL/dw_2| summed over examples, is that of a layer of two
matrices. Of three (SwiGLU: a = silu(g) * u goes down), the sum over a unit's gate weights is G, that of g dL/dg over
tokens, and over its up and its down weights it is D, that of a dL/da, each: so I = sum over examples of |G + 2 D|, from
one backward pass of the summed loss, without a gradient of any weight. Departs: a decoder, its prediction of every
token of a solution in place of a class, and a table of experts that shares out the training's tokens evenly and is
saved. Of the published numbers none is tested.
"""

import copy
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from response_priming import arms, experts, models
from response_priming.methods import student
from response_priming.methods.base import Method
from response_priming.methods.examples import collate, prepare
from response_priming.methods.losses import IGNORED, Loss

BATCH = 8  # examples that importance is measured on at once; not the run's, on which no result may hang


class MoEBERT(Method):
    """Experts cut out of the fine-tuned student, which is their teacher."""

    title: ClassVar[str] = "MoEBERT"
    source: ClassVar[str] = "2204.07675"
    arm: ClassVar[str | None] = arms.FINE_TUNED
    before: ClassVar[str | None] = arms.FINE_TUNED
    base: ClassVar[Mapping[str, Any]] = {"adapter": "full", "train_steps": 120, "learning_rate": 3e-4}
    runs_on: ClassVar[str | None] = "transformers"
    controls: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "random-split": {"split": "random"},
        "inverse-split": {"split": "inverse"},
        "pruned": {"split": "pruned"},
        "dense": {"split": "dense"},
    }
    split: Literal["importance", "random", "inverse", "pruned", "dense"] = Field(
        "importance",
        description="order that units are dealt in; inverse: least important first; pruned: one expert of the first "
        "units; dense: nothing is cut, the parent is trained on",
    )
    # The paper's shape, 4 experts of a quarter, begins at a loss of 4.4 on the laptop's model, whose own is 0.04; this
    # one begins at 1.6, and is at 0.04 after 20 steps.
    experts: int = Field(2, ge=1, le=256, description="experts of a layer")
    width: float = Field(0.5, gt=0, le=1, description="hidden units of an expert, as a share of the layer's")
    shared: float = Field(2 / 3, ge=0, le=1, description="share of an expert's units that all experts have")
    weight: float = Field(1.0, ge=0, description="of the terms that draw the student to its parent")
    examples: int = Field(64, ge=1, description="examples that importance is measured on, and tokens are counted in")
    _parent: Any = PrivateAttr(None)
    _vocabulary: int = PrivateAttr(0)

    @model_validator(mode="after")
    def _units_suffice(self) -> Self:
        if (needed := self.width * (1 + (self.experts - 1) * (1 - self.shared))) > 1 + 1e-9:
            raise ValueError(
                f"experts = {self.experts}, width = {self.width}, shared = {self.shared}: take {needed:.2f} of a "
                "layer's units; allowed: up to 1"
            )
        return self

    def student(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The parent's weights in experts, all trained; the parent itself is kept beside it, as it is."""
        run = self.run
        model, tokenizer = models.load_adapted(
            run.student, run.before, revision=run.student_revision, dtype="float32", device=run.device
        )
        if hasattr(model, "merge_and_unload"):
            model = cast("Any", model).merge_and_unload()
        model.requires_grad_(True)
        self._vocabulary = models.vocabulary(tokenizer, model.config)
        self._parent = copy.deepcopy(model).requires_grad_(False).eval()
        if self.split != "dense":
            self._cut(model, tokenizer)
        for one in (model, self._parent):
            student.teach(one, self._vocabulary)
        return model, tokenizer

    def _cut(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        layers = [cast("Any", dense).down_proj.in_features for dense in experts.gated(model).values()]
        items = prepare(self.run, tokenizer).items
        rows = list(itertools.chain(*(items[place] for place in range(min(len(items), self.examples)))))
        parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        batches = [collate(part, cast("int", tokenizer.pad_token_id)) for part in parts]
        counts = torch.zeros(model.config.vocab_size, dtype=torch.long)
        for batch in batches:
            counts += batch["input_ids"][batch["attention_mask"].bool()].bincount(minlength=len(counts))
        draws = [np.random.default_rng([self.run.seed, layer]) for layer in range(len(layers))]
        count = 1 if self.split == "pruned" else self.experts
        tables = [table(counts.numpy(), count, draw) for draw in draws]
        if self.split == "random":
            orders = [torch.from_numpy(draw.permutation(units)) for draw, units in zip(draws, layers, strict=True)]
        else:
            found = importance(model, batches, self._vocabulary)
            orders = [each.argsort(stable=True, descending=self.split != "inverse") for each in found]
        units = [deal(order, count, self.width, self.shared).to(model.device) for order in orders]
        experts.cut(model, units, [one.to(model.device) for one in tables])

    def batch(
        self,
        model: torch.nn.Module,  # noqa: ARG002
        batch: Mapping[str, Any],
        **at: int,  # noqa: ARG002
    ) -> Mapping[str, Any]:
        """The batch, whose labels are all where the parent's distributions count."""
        return {**batch, "scored": batch["labels"] != IGNORED}

    def loss(self, model: torch.nn.Module, batch: Mapping[str, Any], **counts: Any) -> Loss:
        """See `Method.loss`."""
        self.spent["teacher_read"] += int(batch["attention_mask"].sum())
        loss, apart = self.compared(model, batch, **counts)
        # With alpha = 1 / (1 + weight), its sum is that of the docstring over 1 + weight.
        more = self.weight * apart.sum() / counts.get("hard_tokens", 1)
        return loss._replace(total=(1 + self.weight) * loss.total + more)

    def compared(self, model: torch.nn.Module, batch: Mapping[str, Any], **counts: Any) -> tuple[Loss, Tensor]:
        """The student's loss, softly on its parent's distributions, and the relative squares between the hidden states
        of both, [layers, rows, n]; 0 where padded."""
        known = {key: batch[key] for key in ("input_ids", "attention_mask", "positions", "labels")}
        layers = [*range(self._parent.config.get_text_config().num_hidden_layers), -1]
        with torch.no_grad():
            wanted = cast("Tensor", super().loss(self._parent, known, layers=layers).states)
            logits = F.linear(wanted[-1], self._parent.get_output_embeddings().weight[: self._vocabulary])
            logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        real = known["labels"] != IGNORED
        changed = {"alpha": 1 / (1 + self.weight), "divergence": "symmetric-kl", "kd_temperature": 1.0}
        counts |= {"objective": self.run.model_copy(update=changed), "layers": layers}
        loss: Loss = model(**known, top_logprobs=logprobs, scored=real, **counts)
        kind = torch.promote_types(wanted.dtype, torch.float32)
        apart = (cast("Tensor", loss.states).to(kind) - wanted.to(kind)).square().sum(-1)
        return loss, torch.where(real, apart / wanted.to(kind).square().sum(-1).clamp(min=1e-6), 0)

    def mechanism(self, model: torch.nn.Module, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """On held-out solutions the cross-entropy, and the symmetric divergence from the parent, in nats a token."""
        hard = soft = tokens = 0.0
        for batch in batches:
            loss, _ = self.compared(model, batch)
            hard, soft = hard + float(loss.hard.sum()), soft + float(loss.soft.sum())
            tokens += int((batch["labels"] != IGNORED).sum())
        return {"loss": hard / tokens, "KL to parent": soft / tokens} if tokens else {}

    def active(self, model: torch.nn.Module) -> int:
        """See `Method.active`: of each layer's experts, one."""
        cut = [module for module in model.modules() if isinstance(module, experts.Experts)]
        idle = [weight for layer in cut for weight in cast("Any", layer.experts)[1:].parameters()]
        return int(super().active(model) - sum(weight.numel() for weight in idle))


def importance(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Any]], vocabulary: int | None = None
) -> list[Tensor]:
    """How much the loss hangs on each hidden unit of a dense model's gated layers, [units] a layer.

    Sums over examples of |G + 2 D| (see this module's first lines), L being the summed cross-entropy of an example.

    Args:
        batches: see `examples.collate`.
        vocabulary: outputs that have a token, None: all (see `models.vocabulary`).

    Raises:
        InputError: it has no such layers.
    """
    seen: list[Tensor] = []
    totals: list[Tensor] = []
    watching = []
    for dense in experts.gated(model).values():
        gate, down = cast("Any", dense).gate_proj, cast("Any", dense).down_proj
        watching.append(gate.register_forward_hook(lambda _, __, output: seen.append(output)))
        watching.append(down.register_forward_pre_hook(lambda _, given: seen.append(given[0])))
    head = model.get_output_embeddings()
    for batch in batches:
        seen.clear()
        ids, positions, labels = (batch[key].to(model.device) for key in ("input_ids", "positions", "labels"))
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        logits = head(hidden[torch.arange(len(ids), device=ids.device)[:, None], positions])[..., :vocabulary].flatten(
            0, 1
        )
        loss = F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum")
        # The padding's gradients are 0: it is on the right, and not scored.
        grads = torch.autograd.grad(loss, seen)
        products = [(one.detach() * grad).sum(1) for one, grad in zip(seen, grads, strict=True)]
        parts = [(g + 2 * d).abs().sum(0) for g, d in zip(products[::2], products[1::2], strict=True)]
        totals = [total + part for total, part in zip(totals, parts, strict=True)] if totals else parts
    for watch in watching:
        watch.remove()
    return totals


def deal(order: Tensor, count: int, width: float, shared: float) -> Tensor:
    """The units of each expert, [count, units of one].

    The first of the order are in all; expert e has those of ranks s + e, s + e + count, ... behind these s.

    Args:
        order: the layer's units, [units].
        width: of an expert, as a share of the layer.
        shared: share of an expert's units that are in all.
    """
    each = max(1, int(width * len(order) + 1e-6))
    own = int((1 - shared) * each + 1e-6)
    common = order[: each - own]
    return torch.stack([torch.cat([common, order[each - own + e :: count][:own]]) for e in range(count)])


def table(counts: "np.typing.NDArray[np.int64]", count: int, draw: np.random.Generator) -> Tensor:
    """Which of `count` experts reads each token id, [vocabulary]: at random, and evenly by how often they occur.

    In a random order each token that occurs goes to the expert that has the fewest occurrences so far; all others are
    dealt in turn.

    Args:
        counts: occurrences of each token, [vocabulary].
    """
    order = draw.permutation(len(counts))
    found = np.empty(len(counts), np.int64)
    found[order] = np.arange(len(counts)) % count
    load = np.zeros(count, np.int64)
    for token in order[counts[order] > 0]:
        found[token] = load.argmin()
        load[found[token]] += counts[token]
    return torch.from_numpy(found)
