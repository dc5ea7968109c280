"""Stage prompt-signals: the teacher reads each training question behind a prefix, and answers nothing.

The released code's soft targets (commit b869e93): the distribution after every token of the prompt, plain text without
a chat template or a beginning-of-sequence token, from one forward pass.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from response_priming import artifacts, engines, problems, progress, prompts
from response_priming.generate.store import KEPT, Answered, read, shard_name, write_shard

if TYPE_CHECKING:
    from response_priming import params


def score(run: "params.PromptSignalsRun") -> pd.DataFrame:
    """The strategy's scored prompts, one row a training problem; scored unless they are there already.

    The store is that of `responses`, in the order of the problems: `text` and `tokens` are prefix and question, and the
    signal at a token is the teacher's distribution over the next one.
    """
    folder = run.folders[0]
    return read(artifacts.made(folder.path, artifacts.recipe(run, folder), functools.partial(_score, run)))


def _score(run: "params.PromptSignalsRun", folder: Path) -> None:
    asked = problems.load(run, "train", run.n_train, seed=run.seed)
    engine = engines.open_engine(run.engine, engines.teacher_of(run))
    dense = run.top_k == "all"
    with progress.Bar(len(asked), "prompt") as bar:
        for first in range(0, len(asked), run.generate_batch):
            shard = asked[first : first + run.generate_batch]
            texts = [prompts.prefix_of(run.strategy) + problem.question for problem in shard]
            sequences = [prompts.encode_plain(engine.tokenizer, text) for text in texts]
            scored = dict(engine.score(sequences, top_k=engine.vocabulary if run.top_k == "all" else run.top_k))
            rows = [
                Answered(problem.id, 0, "", len(tokens), engines.Response(tokens, text, False, scored[index]))
                for index, (problem, text, tokens) in enumerate(zip(shard, texts, sequences, strict=True))
            ]
            write_shard(folder / shard_name(first), rows, vocabulary=engine.vocabulary, dense=dense)
            bar.update(len(shard))
    pd.DataFrame({"kept": [True] * len(asked)}).to_parquet(folder / KEPT, index=False)


def most_likely(folder: Path, positions: int) -> pd.DataFrame:
    """The teacher's most likely next token at each of the first positions, one row a problem; NaN past its prompt."""
    frame = read(folder, columns=["tokens", "top_ids"])
    return pd.DataFrame(
        [
            pd.Series(ids.reshape(len(tokens), -1)[:positions, 0])
            for tokens, ids in zip(frame["tokens"], frame["top_ids"], strict=True)
        ]
    )
