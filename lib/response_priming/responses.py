"""The response store: Parquet shards of a teacher's responses, each with its signal.

One row a response: `problem_id`; `prompt_tokens` (length of the prompt); `text`; `tokens` (ids, the end-of-sequence
token included where `finished`); `finished`; and the signal, `top_ids` (int32) and `top_logprobs` (float16, natural
logarithm, temperature 1), flattened row by row from [tokens, k]. Plain pandas reads it; `read` also restores the shape.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from response_priming import paths
from response_priming.engines import Response
from response_priming.errors import InputError


def write_shard(folder: Path, number: int, rows: Iterable[tuple[str, int, Response]]) -> None:
    """Write one shard of (problem id, prompt length, response) rows; every response must carry its signal."""
    frame = pd.DataFrame(
        {
            "problem_id": problem_id,
            "prompt_tokens": prompt_tokens,
            "text": response.text,
            "tokens": response.tokens,
            "finished": response.finished,
            "top_ids": response.top_ids.ravel() if response.top_ids is not None else None,
            "top_logprobs": response.top_logprobs.ravel() if response.top_logprobs is not None else None,
            "tail_logprobs": response.tail_logprobs,
        }
        for problem_id, prompt_tokens, response in rows
    )
    frame.to_parquet(folder / f"shard-{number:05d}.parquet", compression="zstd", index=False)


def read(folder: Path) -> pd.DataFrame:
    """All responses of a store in shard order; `top_ids` and `top_logprobs` are arrays [tokens, k].

    Raises:
        InputError: there is no shard in the folder.
    """
    shards = sorted(folder.glob("shard-*.parquet"))
    if not shards:
        raise InputError(f"{paths.shown(folder)}: no responses here; the generate stage writes them")
    frame = pd.concat([pd.read_parquet(shard) for shard in shards], ignore_index=True)
    for column in ("top_ids", "top_logprobs"):
        frame[column] = [
            flat.reshape(len(tokens), -1) for flat, tokens in zip(frame[column], frame["tokens"], strict=True)
        ]
    return frame


def rows(folder: Path) -> list[dict[str, Any]]:
    """The responses that train, one mapping each (see `read`)."""
    return [{str(key): value for key, value in row.items()} for row in read(folder).to_dict("records")]


def confidence(answered: pd.DataFrame) -> pd.Series:
    """Mean probability of the teacher's most likely token over each response's positions."""
    return answered["top_logprobs"].map(lambda logprobs: float(np.exp(logprobs[:, 0].astype(np.float32)).mean()))


def covered(answered: pd.DataFrame) -> pd.Series:
    """Mean probability mass that the signal's k tokens hold; the rest is the tail bucket of the soft loss."""
    return answered["top_logprobs"].map(lambda logprobs: float(np.exp(logprobs.astype(np.float32)).sum(-1).mean()))
