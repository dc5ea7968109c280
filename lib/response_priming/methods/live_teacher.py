"""Live teacher: a teacher that is asked while its student is trained, in a prompt of its own, worked examples first.

The student reads the bare question, and both the same response, so their positions meet at its tokens alone. The
beginning that all of the teacher's prompts share is read once, unless the teacher is trained as well: then by LoRA, and
what it read before is stale after each step. Its weights are no part of the student.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
from peft import get_peft_model
from torch import Tensor

from response_priming import engines, generate, models, params, problems
from response_priming.engines.cascade import shared_prefix
from response_priming.engines.transformers import Reader, TransformersEngine
from response_priming.errors import InputError
from response_priming.methods.base import Method
from response_priming.methods.losses import IGNORED
from response_priming.methods.student import lora_config


class Reading(NamedTuple):
    """What a teacher makes of responses, at the n positions that predict their tokens; padding has any values.

    `logprobs` [rows, n, vocabulary]: of every token, at temperature 1, in nats. `states` [layers, rows, n, width] and
    `maps` [layers, rows, n, n] (see `over_response`), where they were asked for. `tokens`: how many it read.
    """

    logprobs: Tensor
    states: Tensor | None
    maps: Tensor | None
    tokens: int


def opened(live: params.GenerateRun) -> TransformersEngine:
    """A teacher whose model is at hand; `InputError` where its engine runs it elsewhere."""
    kind = engines.require(live.engine)
    if not issubclass(kind, TransformersEngine):
        raise InputError(
            f"generate.engine = {live.engine!r}: gives no dense log-probabilities while a student is trained; "
            "allowed: 'transformers'"
        )
    return kind.open(engines.teacher_of(live))


class LiveTeacher:
    """The teacher of `run.live`, in evaluation mode; without gradients, but for its LoRA's where it is trained.

    Raises:
        InputError: its engine gives no dense log-probabilities, its tokens are not the student's, or the student is
            not trained on responses position by position.
    """

    def __init__(self, run: params.DistillRun, *, trained: bool = False) -> None:
        live = run.live
        assert live is not None
        if run.alignment != "response" or run.hard_labels != "response":
            key = "alignment" if run.alignment != "response" else "hard_labels"
            raise InputError(
                f"distill.{key} = {getattr(run, key)!r}: a live teacher reads responses; allowed: 'response'"
            )
        generate.check_tokens(live.model_copy(update={"signal": "tokens"}))
        self.engine, self.trained, self.name = opened(live), trained, live.teacher
        student = models.vocabulary(self.engine.tokenizer, models.config(run.student, run.student_revision))
        if self.engine.vocabulary != student:
            raise InputError(
                f"generate.teacher = {live.teacher!r}: {self.engine.vocabulary} of its outputs have a token, and "
                f"{student} of the student's: their distributions cannot be compared"
            )
        self.model = self.engine.model.requires_grad_(False).eval()
        self.layers = int(self.model.config.get_text_config().num_hidden_layers)
        self.width = int(self.model.config.get_text_config().hidden_size)
        if trained:
            self.model = get_peft_model(cast("Any", self.model), lora_config(run, self.model)).eval()
        self._asked = {problem.id: problem for problem in problems.load(run, "train", run.n_train, seed=run.seed)}
        self._written = generate.prompting(live, self.engine.tokenizer)
        written = map(self._written, self._asked.values())
        first = next(written)
        self.shared = 0 if trained else min((shared_prefix([first, other]) for other in written), default=0)
        self._fresh = True  # the beginning was not read yet
        self.response_tokens, self.pad = live.response_tokens, int(self.engine.tokenizer.pad_token_id)

    def prompts(self, names: Sequence[str]) -> list[list[int]]:
        """Its prompts for train problems, by their names."""
        return [self._written(self._asked[name]) for name in names]

    def reader(self, names: Sequence[str], room: int) -> Reader:
        """What reads its prompts for train problems, with room for so many tokens more."""
        return Reader(self.engine, self.prompts(names), shared=self.shared, room=room)

    def read(self, names: Sequence[str], labels: Tensor, *, layers: Sequence[int] = (), maps: bool = False) -> Reading:
        """What it makes of a batch's responses.

        Args:
            names: the problems that they answer, [rows].
            labels: their tokens, [rows, n], `IGNORED` where padded, on the right.
            layers: whose hidden states, and with `maps` attention, are wanted; 1 is the first behind the embeddings.
        """
        counts, n = (labels != IGNORED).cpu(), labels.shape[1]
        responses = [row[real].tolist() for row, real in zip(labels.cpu(), counts, strict=True)]
        texts = [prompt + response[:-1] for prompt, response in zip(self.prompts(names), responses, strict=True)]
        # Padding is on the left: a row's last token is in the last column, its first scored one n columns before.
        back = (counts.sum(-1, keepdim=True) - torch.arange(n)).clamp(min=1).to(self.model.device)
        wanted = {"logits_to_keep": n, "output_hidden_states": bool(layers), "output_attentions": maps}
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            output = self._output(texts, wanted)
            logits = _scored(output.logits, back)[..., : self.engine.vocabulary]
            logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
            states = [_scored(output.hidden_states[layer], back) for layer in layers]
            heads = [output.attentions[layer - 1].mean(1) for layer in layers if maps]
            seen = [over_response(_scored(mean, back), mean.shape[-1] - back, counts.to(back.device)) for mean in heads]
        read = sum(map(len, texts)) - self.shared * (len(texts) - self._fresh)
        self._fresh = False
        return Reading(logprobs, _stacked(states), _stacked(seen), read)

    def _output(self, texts: Sequence[list[int]], wanted: dict[str, Any]) -> Any:
        if not self.trained:
            reader = Reader(self.engine, texts, shared=self.shared)
            return reader.read(reader.prompts, **wanted)
        batch = self.engine.tokenizer.pad({"input_ids": list(texts)}, padding_side="left", return_tensors="pt")
        mask = batch["attention_mask"]
        batch["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        return self.model(**batch.to(self.model.device), use_cache=False, **wanted)


class Taught(Method):
    """A method with a live teacher."""

    live: ClassVar[bool] = True

    @functools.cached_property
    def teacher(self) -> LiveTeacher:
        """The teacher of `run.live`."""
        return LiveTeacher(self.run)


def dense(batch: Mapping[str, Any], logprobs: Tensor) -> dict[str, Any]:
    """A batch with these distributions, [rows, n, vocabulary], in place of those of the store."""
    kept = {key: value for key, value in batch.items() if key not in generate.SIGNAL}
    return {"scored": batch["labels"] != IGNORED} | kept | {"top_logprobs": logprobs}


def _scored(values: Tensor, back: Tensor) -> Tensor:
    """Of values [rows, columns, ...] those that are so many columns before the end: [rows, n], [rows, n, ...]."""
    return values[torch.arange(len(values), device=values.device)[:, None], values.shape[1] - back]


def _stacked(parts: list[Tensor]) -> Tensor | None:
    return torch.stack(parts) if parts else None


def over_response(attention: Tensor, places: Tensor, counts: Tensor) -> Tensor:
    """Attention over the response's tokens and, in the first column, over all of the prompt's together.

    Two prompts before the same response have other lengths, so only this can be compared. Rows sum to 1, like those of
    `attention`.

    Args:
        attention: from each scored position to every key, [rows, n, keys].
        places: of the scored positions among the keys, [rows, n]; the first one is the prompt's last token.
        counts: whether a position is one, and not padding, [rows, n].

    Returns:
        [rows, n, n].
    """
    attention = attention.to(torch.promote_types(attention.dtype, torch.float32))
    keys = torch.arange(attention.shape[-1], device=attention.device)
    prompt = attention.masked_fill(keys > places[:, :1, None], 0).sum(-1, keepdim=True)
    own = attention.gather(2, places[:, None].expand(attention.shape[0], attention.shape[1], -1))
    return torch.cat([prompt, own.masked_fill(~counts[:, None], 0)[..., 1:]], -1)
