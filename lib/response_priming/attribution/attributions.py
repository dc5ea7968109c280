"""Stage attribution: which tokens of its prompt drive the teacher's response, under each strategy's prefix.

Several methods answer, and each is checked. Occlusion replaces one segment of the prompt at a time by neutral tokens
and takes what the response loses. Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) walk from a neutral
prompt to the real one and split the change of the response's log-probability among all tokens; how far the parts are
from adding up is reported. Relevance (see `relevance`) hands the response's logits down to the tokens, layer by layer;
plain gradient x input stands beside it. Deletion replaces ever more tokens, those first that a method ranks highest: if
they matter, the log-probability falls faster than in random order.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from captum.attr import FeatureAblation, LayerIntegratedGradients
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from response_priming import artifacts, generate, models, problems, progress, prompts
from response_priming.attribution.relevance import RULES, propagate
from response_priming.errors import InputError

if TYPE_CHECKING:
    from response_priming import params

REGIONS = ("system prompt", "prefix", "worked examples", "question", "chat template")
FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0)  # of the prompt's tokens that a deletion curve replaces
METHODS = {
    "occlusion": "Occlusion",
    "gradient": "Integrated gradients",
    "relevance": "Relevance (AttnLRP)",
    "relevance-cp": "Relevance (CP-LRP)",
    "input-gradient": "Gradient times input",
}
PROMPT = ["strategy", "problem"]
NEUTRAL = " "  # the text whose token stands for "nothing here"


@dataclass(frozen=True)
class Attributions:
    """What the stage wrote.

    `tokens`: strategy, problem, token, `text`, `region`, `segment` (number of a run of tokens that occlusion replaces
    together), `gradient` (the token's share of the log-probability, nats), `occlusion` (the same of its segment), and
    `relevance`, `relevance-cp` and `input-gradient` (the token's part of the response's logits, summed).
    `deletion`: strategy, problem, `order` (a method, or random), `fraction` of tokens replaced, `logprob` (nats per
    token of the response). `gaps`: strategy, problem, and `gap`, what integrated gradients leave unexplained as a share
    of what they explain.
    """

    tokens: pd.DataFrame
    deletion: pd.DataFrame
    gaps: pd.DataFrame


@dataclass(frozen=True)
class Prompt:
    """A prompt's token ids with the region and segment of each."""

    ids: list[int]
    regions: list[str]
    segments: list[int]


def attribute(run: "params.AttributionRun") -> Attributions:
    """Attribute the teacher's responses to the first training problems; computed unless they are there already.

    Raises:
        InputError: no strategy, or its responses are missing, too few or to another prompt.
    """
    if not run.strategies:
        raise InputError("strategies = []: must name one under which the teacher responded")
    folder = run.folders[0]
    return read(artifacts.made(folder.path, artifacts.recipe(run, folder), functools.partial(_write, run)))


def read(folder: Path) -> Attributions:
    """What `attribute` wrote; `InputError` where the folder is not complete."""
    artifacts.read(folder)
    return Attributions(*(pd.read_parquet(folder / f"{name}.parquet") for name in ("tokens", "deletion", "gaps")))


def shares(tokens: pd.DataFrame) -> pd.DataFrame:
    """Per strategy, problem and region: its share of the absolute values of each method, and of the prompt's `tokens`;
    0 where the prompt has no such region. Occlusion counts a segment once."""
    values = tokens.assign(**tokens[[*METHODS]].abs(), tokens=1.0)
    values["occlusion"] *= ~tokens.duplicated([*PROMPT, "segment"])
    sums = values.groupby([*PROMPT, "region"])[[*METHODS, "tokens"]].sum()
    parts = sums / sums.groupby(PROMPT).transform("sum")
    return parts.unstack("region", fill_value=0.0).stack("region", future_stack=True).reset_index()


def checks(result: Attributions) -> pd.DataFrame:
    """Per strategy and problem, the faithfulness of each method (see `areas`), `agreement` and `gap`.

    `agreement` is Spearman's rank correlation of occlusion and integrated gradients over segments; for `gap` see
    `Attributions`.
    """
    parts = result.tokens.groupby([*PROMPT, "segment"]).agg({"gradient": "sum", "occlusion": "first"})
    ranks = parts.groupby(PROMPT).corr(method="spearman")["gradient"].xs("occlusion", level=-1).rename("agreement")
    return result.gaps.set_index(PROMPT).join([areas(result.deletion, PROMPT), ranks]).reset_index()


def areas(deletion: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The faithfulness of each method, a row a prompt as `by` names it: the area between the deletion curve of random
    order and its own (nats per token of the response; above 0, what it ranks high matters more than chance)."""
    curves = deletion.set_index([*by, "fraction", "order"])["logprob"].unstack("order")
    leads = {method: (curves["random"] - curves[method]).unstack("fraction") for method in curves if method != "random"}
    found = [pd.Series(np.trapezoid(lead, lead.columns, axis=1), lead.index, name=name) for name, lead in leads.items()]
    return pd.concat(found, axis=1)


def _write(run: "params.AttributionRun", folder: Path) -> None:
    examples = problems.load(run, "validation", run.worked_examples, seed=run.seed) if run.worked_examples else []
    asked = problems.load(run, "train", run.attribution_problems, seed=run.seed)
    given = {}
    for strategy in run.strategies:
        # The first of several responses to a problem.
        answered = generate.read(run.build / "responses" / strategy).drop_duplicates("problem_id")
        if run.attribution_problems > len(answered):
            raise InputError(
                f"attribution.attribution_problems = {run.attribution_problems}: strategy {strategy} has responses to "
                f"{len(answered)} problems"
            )
        given[strategy] = answered.set_index("problem_id")
    model: Any
    model, tokenizer = models.load(run.teacher, revision=run.teacher_revision, dtype=run.dtype, device=run.device)
    model.requires_grad_(False)
    neutral = tokenizer(NEUTRAL, add_special_tokens=False)["input_ids"][0]
    tables: list[tuple[pd.DataFrame, ...]] = []
    for strategy, problem in progress.over(list(product(run.strategies, asked)), "response"):
        prefix = prompts.prefix_of(strategy)
        about = {"system_prompt": run.system_prompt, "prefix": prefix, "date": run.prompt_date}
        prompt = locate(tokenizer, problem.question, examples=examples, **about)
        response = given[strategy].loc[problem.id]
        if not len(response["tokens"]):  # set aside
            continue
        if response["prompt_tokens"] != len(prompt.ids):
            raise InputError(f"{strategy}: {problem.id} was answered to another prompt; run generate with these values")
        explain = Explainer(model, response["tokens"].tolist(), neutral)
        rng = np.random.default_rng([run.seed, len(tables)])
        found = explain.all(prompt, tokenizer, steps=run.gradient_steps, orders=run.random_orders, rng=rng)
        tables.append(tuple(table.assign(strategy=strategy, problem=problem.id) for table in found))
    for name, parts in zip(("tokens", "deletion", "gaps"), zip(*tables, strict=True), strict=True):
        pd.concat(parts, ignore_index=True).to_parquet(folder / f"{name}.parquet", index=False)


def locate(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    *,
    system_prompt: str,
    prefix: str,
    examples: Sequence[problems.Problem],
    date: str = prompts.TODAY,
) -> Prompt:
    """The teacher's prompt (see `prompts.messages`) with the region of each token; the prefix is one, every copy of it.

    A token belongs to the region of its last character. Segments are the parts of the prompt, and single tokens within
    the question.

    Raises:
        InputError: the chat template does not repeat a part of the prompt as it is.
    """
    chat = prompts.messages(question, system_prompt=system_prompt, prefix=prefix, examples=examples)
    text = prompts.render(tokenizer, chat, date)
    shown = [(("prefix", prefix), (REGIONS[2], one.question), (REGIONS[2], one.worked)) for one in examples]
    parts = [("system prompt", system_prompt), *(part for turn in shown for part in turn)]
    parts += [("prefix", prefix), ("question", question)]
    owner, end = [-1] * len(text), 0
    for number, (region, part) in enumerate(parts):
        words = part if part in text[end:] else part.strip()
        start = text.find(words, end)
        if start < 0:
            raise InputError(
                f"chat template of the teacher: changes the {region} {part[:40]!r}; it must be kept as it is"
            )
        end = start + len(words)
        owner[start:end] = [number] * len(words)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    owners = [owner[max(start, stop - 1)] for start, stop in encoded["offset_mapping"]]
    named = [*parts, (REGIONS[4], "")]  # -1, the template, is the last one
    regions = [named[number][0] for number in owners]
    starts = [n == 0 or owners[n] != owners[n - 1] or regions[n] == "question" for n in range(len(owners))]
    return Prompt(list(encoded["input_ids"]), regions, (np.cumsum(starts) - 1).tolist())


class Explainer:
    """Attributes the log-probability of one response to the tokens of its prompt."""

    def __init__(self, model: Any, response: Sequence[int], neutral: int) -> None:
        self.model, self.neutral = model, neutral
        self.response = torch.tensor([list(response)], device=model.device)
        self._known = dict[tuple[int, ...], float]()  # of prompts: all deletion curves have the same ends

    def logprob(self, ids: Tensor) -> Tensor:
        """Log-probability of the response [prompts] after prompts [prompts, tokens] (nats)."""
        response = self.response.expand(len(ids), -1)
        output = self.model(torch.cat([ids, response], dim=1), use_cache=False, logits_to_keep=response.shape[1] + 1)
        logprobs = output.logits[:, :-1].float().log_softmax(-1)
        total: Tensor = logprobs.gather(-1, response[..., None])[..., 0].sum(-1)
        return total

    def all(
        self, prompt: Prompt, tokenizer: PreTrainedTokenizerBase, *, steps: int, orders: int, rng: np.random.Generator
    ) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """`tokens`, `deletion` and `gaps` of `Attributions` for one prompt."""
        ids = torch.tensor([prompt.ids], device=self.model.device)
        gradient, gap = self.gradient(ids, steps)
        found = {"occlusion": self.occlusion(ids, prompt.segments), "gradient": gradient}
        found |= {name: propagate(self.model, ids, self.response, name)[0][: len(prompt.ids)] for name in RULES}
        text = [tokenizer.decode([token]) for token in prompt.ids]
        about = {"token": range(len(text)), "text": text, "region": prompt.regions, "segment": prompt.segments}
        return pd.DataFrame(about).assign(**found), self.curves(ids, found, orders, rng), pd.DataFrame({"gap": [gap]})

    def gradient(self, ids: Tensor, steps: int) -> tuple[NDArray[np.float64], float]:
        """Integrated gradients on the embedding layer, summed over its dimensions, and the unexplained share."""
        method = LayerIntegratedGradients(self.logprob, self.model.get_input_embeddings())
        neutral = torch.full_like(ids, self.neutral)
        values = method.attribute(ids, baselines=neutral, n_steps=steps, internal_batch_size=1)
        found = values.double().sum(-1)[0, : ids.shape[1]].numpy(force=True)
        with torch.inference_mode():
            change = float(self.logprob(ids) - self.logprob(neutral))
        return found, abs(found.sum() - change) / abs(change)

    @torch.inference_mode()
    def occlusion(self, ids: Tensor, segments: Sequence[int]) -> NDArray[np.float64]:
        """What the log-probability loses when a token's segment is replaced, [tokens]."""
        mask = torch.tensor([list(segments)], device=ids.device)
        values = FeatureAblation(self.logprob).attribute(ids, baselines=self.neutral, feature_mask=mask)
        return np.asarray(values[0].double().numpy(force=True))

    def curves(
        self, ids: Tensor, found: Mapping[str, NDArray[np.float64]], orders: int, rng: np.random.Generator
    ) -> pd.DataFrame:
        """`deletion` of `Attributions` in the order of each method's values [tokens], and in random order."""
        chosen = [(method, np.argsort(-values, kind="stable")) for method, values in found.items()]
        chosen += [("random", rng.permutation(ids.shape[1])) for _ in range(orders)]
        deletion = pd.concat([self.deletion(ids, order).assign(order=name) for name, order in chosen])
        return deletion.groupby(["order", "fraction"], as_index=False)[["logprob"]].mean()

    @torch.inference_mode()
    def deletion(self, ids: Tensor, order: NDArray[np.int64]) -> pd.DataFrame:
        """Log-probability per token of the response with ever more tokens replaced, in this order."""
        rows = []
        for fraction in FRACTIONS:
            left = ids.clone()
            left[0, torch.tensor(order[: round(fraction * len(order))], device=ids.device)] = self.neutral
            if (key := tuple(left[0].tolist())) not in self._known:
                self._known[key] = float(self.logprob(left)) / self.response.shape[1]
            rows.append((fraction, self._known[key]))
        return pd.DataFrame(rows, columns=["fraction", "logprob"])
