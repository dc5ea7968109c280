import numpy as np
import pandas as pd
import pytest

from response_priming import responses
from response_priming.engines import Response
from response_priming.errors import InputError

PROBABILITIES = [[0.5, 0.25], [0.75, 0.125], [0.25, 0.25]]


def response(tokens):
    """A response of so many tokens, whose signal tells its positions apart."""
    ids = np.arange(tokens * 2, dtype=np.int32).reshape(tokens, 2)
    return Response([7] * tokens, "7" * tokens, tokens > 1, ids, np.log(PROBABILITIES[:tokens]).astype(np.float16))


@pytest.fixture
def store(tmp_path):
    """Two shards, written last one first."""
    responses.write_shard(tmp_path, 1, [("train-2", 9, response(1))])
    responses.write_shard(tmp_path, 0, [("train-0", 5, response(3)), ("train-1", 6, response(2))])
    return tmp_path


def test_what_is_written_is_read(store):
    found = responses.read(store)
    assert found["problem_id"].tolist() == ["train-0", "train-1", "train-2"]
    assert found["prompt_tokens"].tolist() == [5, 6, 9]
    assert found["text"].tolist() == ["777", "77", "7"]
    assert found["finished"].tolist() == [True, True, False]
    for row, length in zip(found.itertuples(), (3, 2, 1), strict=True):
        assert list(row.tokens) == response(length).tokens
        assert np.array_equal(row.top_ids, response(length).top_ids)
        assert np.array_equal(row.top_logprobs, response(length).top_logprobs)
        assert row.top_logprobs.dtype == np.float16


def test_plain_pandas_reads_a_shard_with_its_signal_flat(store):
    row = pd.read_parquet(store / "shard-00000.parquet").iloc[0]
    assert list(row["top_ids"]) == [0, 1, 2, 3, 4, 5]


def test_a_folder_without_shards_is_named(tmp_path):
    with pytest.raises(InputError, match=r": no responses here; the generate stage writes them$"):
        responses.read(tmp_path)


def test_confidence_is_the_mean_probability_of_the_likeliest_token(store):
    assert responses.confidence(responses.read(store)).tolist() == pytest.approx([0.5, 0.625, 0.5], rel=1e-3)


def test_covered_is_the_mean_probability_of_all_tokens_kept(store):
    assert responses.covered(responses.read(store)).tolist() == pytest.approx([2.125 / 3, 0.8125, 0.75], rel=1e-3)
