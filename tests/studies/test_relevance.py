"""The answers of the teacher and of a student, explained: on the tiny model, whose responses get numbers here."""

import numpy as np
import pandas as pd
import pytest
import tiny

from response_priming import artifacts, attribution, generate, models, style
from response_priming.studies import relevance

SIZES = {"n_train": 3, "n_test": 2, "train_steps": 1, "train_batch": 2, "micro_batch": 2, "train_tokens": 400}


@pytest.fixture
def run(make_run):
    made = {"n_train": 3, "worked_examples": 1, "response_tokens": 4, "top_k": 3}
    generate.respond(make_run("generate", strategy="none", **made))
    few = {"answer_tokens": 2, "held_out": 0.3, "worked_examples": 1, "response_tokens": 4, "top_k": 3}
    return make_run("related", **SIZES, **few, related_explained=2)


def numbered(monkeypatch, texts):
    """Takes these texts for the responses; the store is as it was."""
    read = generate.read

    def changed(folder, columns=None):
        found = read(folder, columns)
        return found.assign(text=texts) if columns == ["problem_id", "text"] else found

    monkeypatch.setattr(generate, "read", changed)


def test_answers_of_teacher_and_student_are_explained_once_and_compared_in_pairs(run, monkeypatch):
    numbered(monkeypatch, ["so none", "2 + 1 = 3\n#### 3", "it is 14."])
    table = relevance.explain(run)
    assert table["title"].tolist() == [title for title in relevance.MODELS.values() for _ in attribution.RULES]
    assert set(table["n"]) == {2}
    assert np.isfinite(table.loc[table["method"] != "Gradient times input", ["area_low", "lead_high"]]).all(axis=None)
    plain = table[table["method"] == "Gradient times input"]
    assert plain["lead"].eq(0).all()
    assert plain["lead_low"].isna().all()
    conservative = table[table["method"] == "Relevance (CP-LRP)"]
    assert (conservative["gap"] < 1e-5).all()
    deletion = pd.read_parquet(run.output / "related" / "lrp" / "deletion.parquet")
    areas = attribution.areas(deletion, ["model", "problem"])
    mean = (areas["relevance"] - areas["input-gradient"]).loc["student"].mean()
    assert table.loc[table["method"] == "Relevance (AttnLRP)", "lead"].iloc[1] == pytest.approx(mean)
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("made again"))
    assert relevance.explain(run).equals(table)
    assert artifacts.read(run.output / "related" / "lrp")["recipe"]["version"]
    assert "CP-LRP" in style.printed(table, "explained").to_html()


def test_without_a_number_in_any_response_there_is_nothing_to_explain(run, monkeypatch):
    numbered(monkeypatch, ["none", "of", "them"])
    table = relevance.explain(run)
    assert table.empty
    assert style.printed(table, "explained").to_html()


@pytest.mark.parametrize(
    ("response", "before", "answer"),
    [("2 + 1 = 3\n#### 3", "2 + 1 = 3\n#### ", "3"), ("7", "", "7"), ("1,250.5 pens.", "", "1,250.5")],
)
def test_the_answer_is_the_last_number(response, before, answer):
    tokenizer = tiny.tokenizer()
    ids = relevance.answer_of(tokenizer, response)
    assert [tokenizer.decode(part) for part in ids] == [before, answer]
