import dataclasses

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from response_priming import artifacts
from response_priming.engines import Response, Signal
from response_priming.errors import InputError
from response_priming.generate import store as responses

LOGPROBS = np.log([[0.5, 0.25], [0.75, 0.125], [0.25, 0.25]])
TAILS = np.log([0.25, 0.125, 0.5])


def response(tokens):
    """A response of so many tokens, whose signal tells its positions apart."""
    ids = np.arange(tokens * 2, dtype=np.int32).reshape(tokens, 2)
    signal = Signal(ids, LOGPROBS[:tokens].astype(np.float16), TAILS[:tokens].astype(np.float16))
    return Response([7] * tokens, "7" * tokens, tokens > 1, signal)


def row(problem, tokens):
    return responses.Answered(f"train-{problem}", 0, f"key-{problem}", 5 + problem, response(tokens))


def write(folder, *shards, kept=None, vocabulary=100, dense=False):
    """A store of these shards, written last one first."""
    total = sum(map(len, shards))
    with artifacts.writing(folder, {}) as aside:
        first = total
        for rows in reversed(shards):
            first -= len(rows)
            name = responses.shard_name(first)
            responses.write_shard(aside / name, rows, vocabulary=vocabulary, dense=dense)
        pd.DataFrame({"kept": kept or [True] * total}).to_parquet(aside / responses.KEPT)
    return folder


@pytest.fixture
def store(tmp_path):
    return write(tmp_path / "teacher", [row(0, 3), row(1, 2)], [row(2, 1)])


# --- tables ---


def test_a_table_has_the_responses_in_the_problems_order_without_their_signal(store):
    found = responses.read(store)
    assert found["problem_id"].tolist() == ["train-0", "train-1", "train-2"]
    assert found["key"].tolist() == ["key-0", "key-1", "key-2"]
    assert found["prompt_tokens"].tolist() == [5, 6, 7]
    assert found["text"].tolist() == ["777", "77", "7"]
    assert found["finished"].tolist() == [True, True, False]
    assert found["tokens"].map(list).tolist() == [[7, 7, 7], [7, 7], [7]]
    assert found["kept"].all()
    assert not set(responses.SIGNAL) & set(found.columns)


def test_a_table_has_the_columns_asked_for(store):
    assert set(responses.read(store, ["problem_id", "top_ids"]).columns) == {"problem_id", "top_ids", "kept"}


def test_confidence_is_the_mean_probability_of_the_likeliest_token(store):
    assert responses.read(store)["confidence"].tolist() == pytest.approx([0.5, 0.625, 0.5], rel=1e-3)


def test_covered_is_the_mean_probability_of_the_tokens_kept(store):
    assert responses.read(store)["covered"].tolist() == pytest.approx([2.125 / 3, 0.8125, 0.75], rel=1e-3)


def test_entropy_is_that_of_the_tokens_kept_and_the_rest_as_one(store):
    first = -(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25))
    assert responses.read(store)["entropy"].iloc[2] == pytest.approx(first, rel=1e-3)


# --- formats ---


def test_plain_pandas_reads_a_shard_with_its_signal_flat(store):
    found = pd.read_parquet(store / responses.shard_name(0)).iloc[0]
    assert list(found["top_ids"]) == [0, 1, 2, 3, 4, 5]
    assert np.allclose(np.reshape(found["top_logprobs"], (3, 2)), LOGPROBS, atol=1e-3)
    assert np.allclose(found["tail_logprobs"], TAILS, atol=1e-3)


def test_plain_datasets_reads_the_shards(store, tmp_path):
    files = str(store / "shard-*.parquet")
    found = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert found["problem_id"][:] == ["train-0", "train-1", "train-2"]
    assert found[2]["top_ids"] == [0, 1]


@pytest.mark.parametrize(("vocabulary", "type_"), [(65_536, "uint16"), (65_537, "int32")])
def test_ids_take_the_smallest_type_that_fits_the_vocabulary(tmp_path, vocabulary, type_):
    store = write(tmp_path / "s", [row(0, 1)], vocabulary=vocabulary)
    schema = pq.read_schema(store / responses.shard_name(0))
    assert str(schema.field("top_ids").type.value_type) == type_
    assert str(schema.field("top_logprobs").type.value_type) == "halffloat"


def test_an_id_that_does_not_fit_is_refused(tmp_path):
    signal = Signal(np.array([[70_000]], np.int32), np.zeros((1, 1), np.float16), np.zeros(1, np.float16))
    rows = [row(0, 1)._replace(response=Response([7], "7", True, signal))]
    with pytest.raises(ValueError, match="70000"):
        responses.write_shard(tmp_path / "shard", rows, vocabulary=100)


def test_a_response_without_a_signal_is_refused(tmp_path):
    rows = [row(0, 1)._replace(response=Response([7], "7", True))]
    with pytest.raises(ValueError, match="no signal"):
        responses.write_shard(tmp_path / "shard", rows, vocabulary=100)


def test_the_same_rows_are_the_same_bytes(tmp_path):
    first, second = (write(tmp_path / name, [row(0, 3), row(1, 2)]) for name in ("a", "b"))
    assert artifacts.read(first)["outputs"] == artifacts.read(second)["outputs"]


# --- rows that train ---


def test_rows_are_mapped(store):
    data = responses.dataset(store)
    assert data[1]["text"] == "77"
    assert data.cache_files
    assert list(store.parent.glob(".arrow-*")) == []  # its name is gone, so nobody changes what is mapped


def test_only_kept_rows_train(tmp_path):
    store = write(tmp_path / "s", [row(0, 3), row(1, 2)], [row(2, 1)], kept=[True, False, True])
    assert [str(name) for name in responses.dataset(store)["problem_id"]] == ["train-0", "train-2"]
    assert responses.read(store)["kept"].tolist() == [True, False, True]


def given(row, logprobs):
    """The row with what its tokens were given."""
    return row._replace(response=dataclasses.replace(row.response, token_logprobs=np.array(logprobs, np.float16)))


def test_the_log_probability_of_each_token_is_stored_even_outside_the_k(tmp_path):
    store = write(tmp_path / "s", [given(row(0, 2), [-9.5, np.nan]), row(1, 1)])
    found = responses.read(store, ["problem_id", "token_logprobs"])["token_logprobs"]
    assert np.array_equal(found[0], [-9.5, np.nan], equal_nan=True)
    assert np.isnan(found[1]).all()
    (place,) = (responses.stored([store], 2)[key] for key in ["key-0"])
    (response,) = responses.taken([place], 2)
    assert response.token_logprobs[0] == -9.5


def test_shards_from_before_the_column_are_read_beside_newer_ones(tmp_path):
    old, new = [row(0, 2)], [given(row(1, 1), [-1.5])]
    store = write(tmp_path / "s", old, new)
    assert "token_logprobs" not in pq.read_schema(store / responses.shard_name(0)).names
    found = responses.read(store, ["token_logprobs"])["token_logprobs"]
    assert np.isnan(found[0])
    assert list(found[1]) == [-1.5]
    for some in (store, write(tmp_path / "t", new, old)):
        assert sorted(map(str, responses.dataset(some)["problem_id"])) == ["train-0", "train-1"]
        assert "token_logprobs" not in responses.dataset(some).column_names
        assert "token_logprobs" not in responses.read(some)
    assert list(responses.read(write(tmp_path / "u", old), ["token_logprobs"])["token_logprobs"].isna()) == [True]
    assert responses.taken([responses.stored([store], 2)["key-0"]], 2)[0].token_logprobs is None


def test_a_dense_store_is_by_token_id(tmp_path):
    probabilities = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])
    ids = np.argsort(-probabilities)
    top = np.log(np.take_along_axis(probabilities, ids, 1)).astype(np.float16)
    tail = np.full(2, -65504, np.float16)
    dense = Response([1, 0], "b", True, Signal(ids.astype(np.int32), top, tail))
    store = write(tmp_path / "s", [row(0, 1)._replace(response=dense)], dense=True)
    (data,) = responses.dataset(store)
    assert {"top_logprobs"} == set(responses.SIGNAL) & set(data)
    assert np.allclose(np.exp(data["top_logprobs"].reshape(2, 3)), probabilities, atol=1e-3)
    found = responses.read(store).iloc[0]
    assert found["confidence"] == pytest.approx(0.55, rel=1e-3)
    assert found["entropy"] == pytest.approx(-(probabilities * np.log(probabilities)).sum() / 2, rel=1e-3)


# --- what is wrong ---


def test_a_folder_that_is_not_made_yet_is_named(tmp_path):
    with pytest.raises(InputError, match="none: not made yet"):
        responses.read(tmp_path / "none")


@pytest.mark.parametrize("reader", [responses.read, responses.dataset])
def test_an_empty_store_is_named(tmp_path, reader):
    with pytest.raises(InputError, match=r"s: no responses here; the generate stage writes them$"):
        reader(write(tmp_path / "s"))


@pytest.mark.parametrize("reader", [responses.read, responses.dataset])
def test_a_damaged_shard_is_named_with_what_mends_it(store, reader):
    shard = store / responses.shard_name(2)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"shard-00000002.parquet: not as it was made; `make paper` makes it again$"):
        reader(store)


def test_a_store_that_the_filters_leave_empty_is_named(tmp_path):
    with pytest.raises(InputError, match=r"all 1 responses are dropped by the filters; nothing trains$"):
        responses.dataset(write(tmp_path / "s", [row(0, 1)], kept=[False]))
