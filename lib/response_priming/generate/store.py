"""The response store: Parquet shards (zstd) of a teacher's responses, each token with the teacher's signal.

One row a response, in the order of the problems and then of the samples, whatever order they finished in; a shard is
named after the position of its first problem. Plain pandas and `datasets` read it. Columns:

| column | type | meaning |
|---|---|---|
| problem_id, sample | string, int16 | what is answered, and which of its samples this is (from 0) |
| question | string | what was asked; only in a store with questions that the data set does not have |
| key | string | digest of the model, prompt tokens and sampling settings: responses are reused by it |
| prompt_tokens | int32 | length of the prompt (tokens) |
| text, finished | string, bool | the response; whether it ended by itself within the budget |
| tokens | list of int32 | its token ids, the end-of-sequence token included where `finished`; none where the prompt
  was set aside, as the engine failed at it whatever was tried: the manifest says why |
| confidence, entropy, covered | float32 | means over tokens: see `summarise` |
| top_ids | list of uint16 or int32 | the k most likely tokens, most likely first, flat from [tokens, k]; not in a dense
  store, where the column is the token id; uint16 where the vocabulary has at most 65,536 entries |
| top_logprobs | list of float16 | their log-probabilities (natural logarithm, temperature 1), flat likewise |
| tail_logprobs | list of float16 | log of the probability outside the k tokens, [tokens]; not in a dense store |
| token_logprobs | list of float16 | log-probability of the token that was given, [tokens]; NaN where the engine could
  not say; not in an older store, which is read as one of NaN, nor in one of prompts |

`kept.parquet` beside the shards says which responses train (see `teacher.select`).

What k costs: at temperature 1 the k = 64 tokens of a language model hold nearly all probability, and the signal is as
good as dense. A distillation temperature T flattens what it divides, and the rest of the vocabulary then weighs
exp(tail / T) as one bucket but the sum of exp(logprob / T) over all its tokens as many: at the paper's T = 5.94 most of
the tempered mass lies outside any small k. Top-k distillation at high T is thus another objective, not a cheap copy of
the dense one; `benchmarks/results/truncation.md` measures by how much. The defaults (k = 64, T = 1) stay where both
agree; `top_k: all` keeps dense rows for those who want high T.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from response_priming import artifacts
from response_priming.engines import LOWEST, Response, Signal, pack
from response_priming.errors import InputError

# Tables are read without it, which takes seconds to import.
if TYPE_CHECKING:
    from datasets import Dataset

KEPT = "kept.parquet"
SIGNAL = Signal._fields
GIVEN = "token_logprobs"
LARGEST_UINT16_VOCABULARY = 65_536


class Answered(NamedTuple):
    """A response, and the prompt that it answers."""

    problem_id: str
    sample: int
    key: str
    prompt_tokens: int
    response: Response
    question: str | None = None


def shard_name(first: int) -> str:
    """The shard that starts with the problem at this position; names sort by position."""
    return f"shard-{first:08d}.parquet"


def first_of(name: str) -> int:
    """The position in a shard's name."""
    return int(name.removeprefix("shard-").removesuffix(".parquet"))


def is_shard(name: str) -> bool:
    """Whether a file of the store is a shard."""
    return name.startswith("shard-")


# --- writing ---


def write_shard(path: Path, rows: Sequence[Answered], *, vocabulary: int, dense: bool = False) -> None:
    """Write responses, which must carry their signal, as one shard.

    Args:
        vocabulary: number of token ids, which decides how they are stored.
        dense: the signal holds the whole vocabulary; it is stored by token id.
    """
    signals = [row.response.signal for row in rows if row.response.signal is not None]
    if len(signals) < len(rows):
        raise ValueError("a response carries no signal")
    if dense:
        flat: dict[str, pa.Array] = {"top_logprobs": _flat([by_token(signal) for signal in signals], pa.float16())}
    else:
        kinds = [pa.uint16() if vocabulary <= LARGEST_UINT16_VOCABULARY else pa.int32(), pa.float16(), pa.float16()]
        flat = {name: _flat([signal[i] for signal in signals], kinds[i]) for i, name in enumerate(SIGNAL)}
    given = [row.response.token_logprobs for row in rows]
    if any(values is not None for values in given):
        unsaid = [np.full(len(row.response.tokens), np.nan) for row in rows]
        both = zip(given, unsaid, strict=True)
        flat[GIVEN] = _flat([none if values is None else values for values, none in both], pa.float16())
    means = pd.DataFrame([summarise(signal) for signal in signals])
    table = pa.table(
        {
            "problem_id": [row.problem_id for row in rows],
            **({"question": asked} if any(asked := [row.question for row in rows]) else {}),
            "sample": pa.array([row.sample for row in rows], pa.int16()),
            "key": [row.key for row in rows],
            "prompt_tokens": pa.array([row.prompt_tokens for row in rows], pa.int32()),
            "text": [row.response.text for row in rows],
            "finished": [row.response.finished for row in rows],
            "tokens": pa.array([row.response.tokens for row in rows], pa.list_(pa.int32())),
            **{str(name): pa.array(values.tolist(), pa.float32()) for name, values in means.items()},
            **flat,
        }
    )
    # Bytes of equal significance side by side: smaller and faster than dictionaries, for ids and log-probabilities.
    split = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in (*SIGNAL, GIVEN) if name in table.column_names}
    dictionary = ["problem_id", "finished"]
    pq.write_table(table, path, compression="zstd", use_dictionary=dictionary, column_encoding=split)


def _flat(arrays: Sequence[NDArray[Any]], kind: pa.DataType) -> pa.Array:
    """One list a response. Offsets have 64 bits: dense rows of one shard can hold more than 2^31 values."""
    ends = np.cumsum([0, *(array.size for array in arrays)])
    values = np.concatenate([array.ravel() for array in arrays])
    # The cast refuses an id that does not fit.
    return pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.array(values).cast(kind))


def by_token(signal: Signal) -> NDArray[np.float16]:
    """A signal of the whole vocabulary, [tokens, vocabulary], its columns in the order of token ids."""
    dense = np.empty_like(signal.top_logprobs)
    np.put_along_axis(dense, signal.top_ids.astype(np.int64), signal.top_logprobs, axis=1)
    return dense


def summarise(signal: Signal) -> dict[str, float]:
    """Means over a response's tokens of what the teacher's next-token distribution says.

    `confidence`: probability of the most likely token. `entropy` (nats): of the k tokens and one bucket for the rest,
    so at most the whole distribution's. `covered`: probability of the k tokens. NaN where there is no token.
    """
    logprobs, tail = (values.astype(np.float32) for values in signal[1:])
    p, rest = np.exp(logprobs), np.exp(tail)
    entropy = -(p * logprobs).sum(-1) - rest * tail
    means = {"confidence": p.max(-1), "entropy": entropy, "covered": p.sum(-1)}
    return {name: float(values.mean()) if len(values) else np.nan for name, values in means.items()}


# --- what is there already ---


class Stored(NamedTuple):
    """Where a response is: a row of a shard, with `top_k` tokens at each position (None: all)."""

    shard: Path
    row: int
    top_k: int | None


def stored(folders: Sequence[Path], top_k: int | None) -> dict[str, Stored]:
    """The responses in some folders that have the `top_k` most likely tokens of each position, by their key.

    Of several with one key, the first that has as many and no more. What was set aside is none.
    """
    found: dict[str, Stored] = {}
    for shard in (folder / name for folder in folders for name in sorted(artifacts.intact(folder)) if is_shard(name)):
        columns = ["top_ids"] if "top_ids" in pq.read_schema(shard).names else []
        table = pq.read_table(shard, columns=["key", "tokens", *columns])
        lengths = pc.list_value_length(table["tokens"]).to_pylist()
        kept = pc.sum(pc.list_value_length(table["top_ids"])).as_py() // max(1, sum(lengths)) if columns else None
        if kept is None or (top_k is not None and kept >= top_k):
            for row, key in enumerate(table["key"].to_pylist()):
                if lengths[row] and (key not in found or kept == top_k):
                    found[key] = Stored(shard, row, kept)
    return found


def taken(places: Sequence[Stored], top_k: int | None) -> list[Response]:
    """The responses at these places, with the signal of their `top_k` most likely tokens.

    Of one that was stored with more, the tail is the sum of what was rounded to fp16, not rounded from the sum.
    """
    tables = {place.shard: pq.read_table(place.shard) for place in places}
    found = []
    for shard, row, kept in places:
        table = tables[shard]
        tokens = table["tokens"][row].as_py()
        logprobs = table["top_logprobs"][row].values.to_numpy(zero_copy_only=False).reshape(len(tokens), -1)
        if kept is None:
            ids = np.argsort(-logprobs, axis=-1, kind="stable")
            logprobs, tail = np.take_along_axis(logprobs, ids, -1), np.full(len(tokens), LOWEST)
        else:
            ids = table["top_ids"][row].values.to_numpy(zero_copy_only=False).reshape(len(tokens), -1)
            tail = table["tail_logprobs"][row].values.to_numpy(zero_copy_only=False)
        if top_k is not None and top_k < logprobs.shape[1]:
            dropped = np.logaddexp.reduce(logprobs[:, top_k:].astype(np.float64), axis=-1)
            tail = np.logaddexp(dropped, tail.astype(np.float64))
        signal = pack(ids[:, :top_k], logprobs[:, :top_k], tail)
        text, finished = (table[name][row].as_py() for name in ("text", "finished"))
        given = table[GIVEN][row].values.to_numpy(zero_copy_only=False) if GIVEN in table.column_names else None
        found.append(Response(tokens, text, finished, signal, given))
    return found


# --- reading ---


def read(folder: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """All responses of a store, one row each, with `kept`: whether it trains.

    Args:
        columns: which; by default all but the signal (`SIGNAL`) and `GIVEN`, which may not fit into memory. The signal
            comes flat; what a shard does not have is missing.

    Raises:
        InputError: there are no responses, or a shard is damaged.
    """
    shards = _shards(folder)
    if columns is None:
        columns = [name for name in pq.read_schema(shards[0]).names if name not in (*SIGNAL, GIVEN)]
    there = [[name for name in columns if name in pq.read_schema(shard).names] for shard in shards]
    parts = [pd.read_parquet(shard, columns=names) for shard, names in zip(shards, there, strict=True)]
    frame = pd.concat(parts, ignore_index=True).reindex(columns=list(columns))
    return frame.assign(kept=pd.read_parquet(folder / KEPT)["kept"])


def dataset(folder: Path) -> "Dataset":
    """The responses that train, memory-mapped: one row a problem, all columns but `GIVEN`, arrays as numpy.

    Rows are read from disk as they are asked for: `dataset(folder)[number]`. The Arrow file that is mapped is made of
    the shards each time, on their disk, and has no name any more once it is mapped: nobody can change it.

    Raises:
        InputError: there are no responses, none is kept, or a shard is damaged.
    """
    from datasets import Dataset, disable_progress_bars

    # A bar of a second for mapping the shards says nothing in an executed notebook.
    disable_progress_bars()
    shards = [str(shard) for shard in _shards(folder)]
    with tempfile.TemporaryDirectory(prefix=".arrow-", dir=folder.parent) as cache:
        # Shards of one store may have been written before and after there was such a column.
        columns = [name for name in pq.read_schema(shards[0]).names if name != GIVEN]
        data = Dataset.from_parquet(shards, cache_dir=cache, columns=columns)
    kept = np.flatnonzero(pd.read_parquet(folder / KEPT)["kept"])
    if not len(kept):
        raise InputError(f"{folder}: all {len(data)} responses are dropped by the filters; nothing trains")
    return data.select(kept).with_format("numpy")


def _shards(folder: Path) -> list[Path]:
    shards = [folder / name for name in artifacts.read(folder)["outputs"] if is_shard(name)]
    if not shards:
        raise InputError(f"{folder}: no responses here; the generate stage writes them")
    return sorted(shards)
