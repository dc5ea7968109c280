"""Stage attention-visualize: how the students' attention differs, in numbers for every head.

The released analysis of Goyal et al. 2024 (arXiv 2412.17846) reads one prompt, skips the last layer and puts the
adapters into a model that they were not trained on. Here all students read the same texts, each a prompt and the data
set's solution, and the two regions are reported apart. The solution is nobody's own response: with a text for each arm,
texts would differ as well as students. The fine-tuned arm learnt from solutions of this form, so it is the most at home
in them. Layers and heads count from 0.

The teacher has no line of its own: it reads another text (prefix and worked examples), whose rows are longer, and every
one of the numbers depends on the length of rows.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from response_priming import artifacts, models, params, problems, progress, prompts
from response_priming.attention import differences, maps
from response_priming.attention.metrics import largest_first
from response_priming.attention.reading import Reading, Text
from response_priming.attention.results import TABLES, Analysis, read
from response_priming.errors import InputError

SHOWING = {"heatmaps", "heatmap_tokens", "chosen_heads", "rule"}  # shape figures, not what is measured
NOT_IN_RECIPE = {"profile", "n_train", "n_test", "data_dir", *SHOWING}


def analyse(run: params.AttentionRun) -> Analysis:
    """Measure every student on the first test problems, asked as they are evaluated: the bare question.

    Raises:
        InputError: a student is missing or of another model, or a text is longer than allowed.
    """
    folder = run.output / "attention"
    recipe = artifacts.recipe(
        run.stage,
        run.model_dump(exclude=NOT_IN_RECIPE)
        | {"data": problems.fingerprint(run), "weights": models.fingerprint(run.student, run.student_revision)},
        list(maps.folders_of(run).values()),
        code=["attention.analysis"],
    )
    if not artifacts.is_current(folder, recipe):
        with artifacts.writing(folder, recipe) as aside:
            _write(aside, run)
    return read(folder)


def _write(folder: Path, run: params.AttentionRun) -> None:
    groups, tokenizer = maps.load(run)
    texts = _texts(run, tokenizer, groups[0].model.config)
    readings: list[Reading] = []
    for text in progress.over(texts, "text"):
        kept = _kept(text, run.explorer_tokens) if len(readings) < run.explorer_prompts else None
        reading = Reading(maps.students(run), text, kept)
        maps.visit_groups(groups, reading.who, text.tokens, reading.take, skip=run.skip_layers)
        readings.append(reading)
    metrics = pd.concat([reading.metrics().assign(prompt=n) for n, reading in enumerate(readings)], ignore_index=True)
    divergent = pd.concat([reading.divergent() for reading in readings]).groupby(["layer", "head"]).mean()
    divergent = largest_first(divergent.reset_index())
    tests = differences.primed(metrics, run.arms, seed=run.seed)
    for name, table in zip(TABLES, (metrics, divergent, tests), strict=True):
        table.to_parquet(folder / f"{name}.parquet", index=False)
    arrays: dict[str, Any] = {}
    for number, reading in enumerate(readings[: run.explorer_prompts]):
        arrays |= _arrays(number, reading, tokenizer)
    np.savez_compressed(folder / "explorer.npz", **arrays)
    prose = differences.variables(metrics, divergent, tests)
    (folder / "variables.json").write_text(json.dumps(prose, indent=1), encoding="utf-8")


def _texts(run: params.AttentionRun, tokenizer: PreTrainedTokenizerBase, config: Any) -> list[Text]:
    limit = min(run.attention_tokens, getattr(config, "max_position_embeddings", run.attention_tokens))
    texts = []
    for problem in problems.load(run, "test", run.attention_prompts, seed=run.seed):
        prompt = prompts.encode(tokenizer, prompts.bare(problem.question, run.system_prompt))
        response = prompts.encode_response(tokenizer, problem.worked) if run.with_solution else []
        text = Text(problem.id, prompt + response, len(prompt))
        if len(text.tokens) > limit:
            raise InputError(
                f"attention.attention_tokens: problem {problem.id} has {len(text.tokens)} tokens; allowed: {limit}"
            )
        texts.append(text)
    return texts


def _kept(text: Text, most: int) -> list[int]:
    """Positions of the first token, which is the attention sink, and of the last ones."""
    return [0, *range(max(1, len(text.tokens) - most + 1), len(text.tokens))]


def _arrays(number: int, reading: Reading, tokenizer: PreTrainedTokenizerBase) -> dict[str, NDArray[Any]]:
    """The entries of `explorer.npz` (see `attention_results`) for one text."""
    text, positions = reading.text, np.array(reading.kept)
    read_maps = torch.stack(reading.maps, dim=1).numpy()
    about = {
        "tokens": np.array([tokenizer.decode([text.tokens[position]]) for position in positions]),
        "positions": positions,
        "response": np.array((positions < text.prompt).sum()),
        "problem": np.array(text.problem),
    }
    return {
        f"{name}/{number}": array for name, array in (about | dict(zip(reading.arms, read_maps, strict=True))).items()
    }
