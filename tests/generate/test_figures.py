import pandas as pd
import pytest

from response_priming import arms, scoring
from response_priming.generate import figures, store, teacher

SIZES = {"n_train": 4, "worked_examples": 0, "response_tokens": 4, "generate_batch": 4, "top_k": 3}


@pytest.fixture
def make(make_run):
    """Makes a strategy's responses; returns the run."""

    def make(strategy, **changes):
        run = make_run("generate", strategy=strategy, **SIZES | changes)
        teacher.respond(run)
        return run

    return make


@pytest.fixture
def answered():
    """Two strategies' graded responses to two problems, made up."""
    table = pd.DataFrame(
        {
            "problem_id": ["train-0", "train-1"] * 2,
            "strategy": ["none"] * 2 + ["confidence"] * 2,
            "title": ["Plain"] * 2 + ["Sure"] * 2,
            "response": ["3", "4", "3", "5"],
            "answer": ["3", "5", "3", "5"],
            "tokens": [2, 4, 3, 3],
            "finished": [True, False, True, True],
            "confidence": [0.5, 0.7, 0.8, 0.9],
            "entropy": [2.0, 1.0, 0.5, 0.5],
            "covered": [0.9, 1.0, 1.0, 1.0],
        }
    )
    return scoring.grade(table, ["last-number"])


def test_strategies_run_so_far_stand_side_by_side_in_the_profiles_order(make):
    make("confidence")
    assert figures.graded(make("none"))["strategy"].unique().tolist() == ["none", "confidence"]


def test_a_strategy_made_with_other_parameters_is_left_out(make):
    make("confidence", response_tokens=3)
    assert figures.graded(make("none"))["strategy"].unique().tolist() == ["none"]


def test_a_problem_counts_once_however_many_samples(make):
    run = make("none", samples=3, temperature=1.0)
    assert len(store.read(run.output / "responses" / "none")) == 12
    assert figures.graded(run)["problem_id"].tolist() == [f"train-{number}" for number in range(4)]


def test_the_table_has_accuracy_with_its_interval_and_the_published_confidence(answered):
    table = figures.table(answered, "last-number").set_index("title")
    assert table["accuracy"].to_dict() == {"Plain": 0.5, "Sure": 1.0}
    assert (table["low"] < table["accuracy"]).all()
    assert table["confidence"].to_dict() == pytest.approx({"Plain": 0.6, "Sure": 0.85})
    assert table["published_confidence"].to_dict() == {"Plain": 0.573, "Sure": 0.5205}


def test_every_published_confidence_is_of_a_known_strategy():
    assert arms.published()["teacher_confidence"].keys() <= arms.strategies().keys()


def test_samples_stand_side_by_side_with_their_verdict(answered):
    table = figures.samples(answered, "last-number", count=2)
    assert list(table.columns) == ["Plain", "Sure"]
    assert table.loc["train-1"].tolist() == ["4 (wrong)", "5 (right)"]


def test_lengths_have_a_line_a_strategy_and_the_budget(answered):
    figure = figures.lengths_figure(answered, 4)
    (axes,) = figure.axes
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == [arms.title("none"), arms.title("confidence")]
    assert axes.get_ylabel() == "Share, n = 2 each"
    assert [4, 4] in [list(line.get_xdata()) for line in axes.lines]


def test_certainty_shows_means_and_what_was_published(answered):
    figure = figures.certainty_figure(answered)
    axes = figure.axes
    points = {round(float(x), 4) for line in axes[0].lines for x in line.get_xdata()}
    assert {0.6, 0.85, 0.573, 0.5205} <= points
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["Plain", "Sure"]
