"""Relevance of an answer: which tokens the number that ends a response comes from, of the teacher and of a student.

Both are given the same responses, the teacher's: the tokens before a response's last number, prompt and response, are
attributed, and what is explained is the number's tokens. Of the other entries of attribution, plain gradient x input
and random order stand beside relevance. Nothing is trained for it; the tables are in `related/lrp/`.
"""

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from response_priming import artifacts, attribution, generate, models, params, problems, progress, prompts, stats
from response_priming.studies.ladder import Rung, make

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
ORDERS = 2  # random ones that a deletion curve is compared with
MODELS = {"teacher": "Teacher", "student": "Student (KD)"}


def explain(run: params.RelatedRun) -> pd.DataFrame:
    """How well relevance explains answers of the teacher and of the student that learnt from its responses.

    A row a model and method. Columns: `title` of the model, `method`; `n` (problems); means over problems, with 95 %
    t-intervals, of the area between the deletion curve of random order and the method's, `area` with `area_low` and
    `area_high`, and by how much that is larger than for gradient x input, `lead...` (nats per token of the answer);
    `gap`, the mean share of the logits that the parts do not add up to; `first`, the mean share of absolute relevance
    that is on the very first token. No rows where no response has a number.

    Raises:
        InputError: a model is none that relevance knows.
    """
    rung = {run.related_strategy: Rung("", run.related_strategy, {})}
    (student,) = make(run, rung, run.output / "related", {"seeds": run.related_seeds})
    at = {"strategies": [run.related_strategy], "attribution_problems": run.related_explained, "random_orders": ORDERS}
    asked = params.AttributionRun.of(run.model_dump() | at)
    trained = student.training.folders[0].path
    code = ["studies.relevance", "attribution.attributions"]
    folder = params.Folder(run.output / "related" / "lrp", code, [*run.reads, trained], {"explained": "answers"})
    write = functools.partial(_write, asked, run.reads[0], trained)
    path = artifacts.made(folder.path, artifacts.recipe(asked, folder), write)
    deletion, sums = (pd.read_parquet(path / f"{name}.parquet") for name in ("deletion", "sums"))
    if deletion.empty:
        return deletion
    areas, rows = attribution.areas(deletion, ["model", "problem"]), []
    for model, title in MODELS.items():
        for method in attribution.RULES:
            own = areas.loc[model]
            row = {"title": title, "method": attribution.METHODS[method], "n": len(own)}
            for name, values in (("area", own[method]), ("lead", own[method] - own["input-gradient"])):
                low, high = stats.t_interval(values) if name == "area" or method != "input-gradient" else (np.nan,) * 2
                row |= {name: values.mean(), f"{name}_low": low, f"{name}_high": high}
            of_method = sums[(sums["model"] == model) & (sums["method"] == method)]
            rows.append(row | of_method[["gap", "first"]].mean().to_dict())
    return pd.DataFrame(rows)


def _write(run: params.AttributionRun, store: Path, student: Path, folder: Path) -> None:
    examples = problems.load(run, "validation", run.worked_examples, seed=run.seed) if run.worked_examples else []
    given = generate.read(store, ["problem_id", "text"]).drop_duplicates("problem_id").set_index("problem_id")["text"]
    asked = problems.load(run, "train", run.n_train, seed=run.seed)
    numbered = [one for one in asked if NUMBER.search(given.get(one.id, ""))]
    primed: dict[str, Any] = {"prefix": prompts.prefix_of(run.strategies[0]), "examples": examples}
    options: dict[str, Any] = {"dtype": run.dtype, "device": run.device}
    tables: list[tuple[pd.DataFrame, ...]] = []
    for role in MODELS:
        model: Any
        if role == "teacher":
            model, tokenizer = models.load(run.teacher, revision=run.teacher_revision, **options)
        else:
            model, tokenizer = models.load_adapted(run.student, student, revision=run.student_revision, **options)
        model.requires_grad_(False)
        neutral = prompts.encode_plain(tokenizer, attribution.NEUTRAL)[0]
        for number, problem in enumerate(progress.over(numbered[: run.attribution_problems], "answer")):
            about = primed if role == "teacher" else {}
            chat = prompts.messages(problem.question, system_prompt=run.system_prompt, **about)
            before, answer = answer_of(tokenizer, given[problem.id])
            ids = torch.tensor([prompts.encode(tokenizer, chat, run.prompt_date) + before], device=model.device)
            explainer, found, rows = attribution.Explainer(model, answer, neutral), {}, []
            for method in attribution.RULES:
                values, gap = attribution.propagate(model, ids, explainer.response, method)
                found[method] = values[: ids.shape[1]]
                rows.append({"method": method, "gap": gap, "first": abs(values[0]) / np.abs(values).sum()})
            rng = np.random.default_rng([run.seed, number])
            both = explainer.curves(ids, found, run.random_orders, rng), pd.DataFrame(rows)
            tables.append(tuple(table.assign(model=role, problem=problem.id) for table in both))
    for name, parts in zip(("deletion", "sums"), zip(*tables, strict=True) if tables else ([], []), strict=True):
        pd.concat([pd.DataFrame(), *parts]).to_parquet(folder / f"{name}.parquet", index=False)


def answer_of(tokenizer: PreTrainedTokenizerBase, response: str) -> tuple[list[int], list[int]]:
    """The token ids of a response before its last number, and those of the number."""
    *_, number = NUMBER.finditer(response)
    encoded = tokenizer(response[: number.end()], add_special_tokens=False, return_offsets_mapping=True)
    first = next(place for place, (_, end) in enumerate(encoded["offset_mapping"]) if end > number.start())
    return encoded["input_ids"][:first], encoded["input_ids"][first:]
