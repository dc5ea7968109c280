"""Differences, the permutation test, the means' table, and the summary of attention."""

import numpy as np
import pandas as pd
import pytest

from response_priming import arms, paths
from response_priming.attention import differences as tables
from response_priming.attention import figures as drawn
from response_priming.attention.results import EVERY, PAPER

ARMS = ["undistilled", "fine-tuned", "none", "teacher"]


def some_metrics(arms=ARMS, prompts=6, seeds=1, shift=0.0):
    """Random numbers; `shift` is added for the arm `teacher`. Prompts differ much, arms little."""
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [range(prompts), ["prompt", "solution"], range(3), range(2)], names=["prompt", "region", "layer", "head"]
    )
    of_prompt = rng.normal(size=(len(index), len(EVERY)))
    blocks = []
    for arm in arms:
        for seed in range(1 if arm == "undistilled" else seeds):
            values = of_prompt + 0.01 * rng.normal(size=of_prompt.shape) + shift * (arm == "teacher")
            blocks.append(pd.DataFrame(values, index, list(EVERY)).reset_index().assign(arm=arm, seed=seed))
    return pd.concat(blocks, ignore_index=True)


DIVERGENT = pd.DataFrame({"layer": [2, 0], "head": [1, 0], "variance": [2.0, 1.0]})


def test_differences_are_from_the_same_head_region_and_prompt():
    metrics = some_metrics(seeds=2)
    keys = ["prompt", "region", "layer", "head"]
    found = tables.against(metrics, "undistilled").set_index(["arm", "seed", *keys]).sort_index()
    assert (found.loc["undistilled"] == 0).all(axis=None)
    cell = (1, "solution", 2, 0)
    values = metrics.set_index(["arm", "seed", *keys])["entropy"]
    expected = values["teacher", 1, *cell] - values["undistilled", 0, *cell]
    assert found.loc[("teacher", 1, *cell), "entropy"] == pytest.approx(expected)


def test_a_shift_on_every_prompt_has_the_smallest_p_there_is():
    found = tables.primed(some_metrics(shift=1.0), ARMS, seed=0)
    assert found["p_prompts"].tolist() == [2 / 2**6] * len(found)
    assert np.allclose(found["difference"], 1, atol=0.02)
    assert (found["low"] < found["difference"]).all()
    assert np.allclose(found["p_holm"], np.minimum(1, len(found) * 2 / 2**6))


def test_equal_students_never_differ():
    metrics = some_metrics()
    same = metrics[metrics["arm"] == "none"]
    found = tables.primed(pd.concat([same, same.assign(arm="teacher")]), ["none", "teacher"], seed=0)
    assert (found["p_prompts"] == 1).all()
    assert (found["difference"] == 0).all()


def test_p_values_hold_their_level_without_a_difference():
    p = tables.primed(some_metrics(prompts=10), ARMS, seed=0)["p_prompts"]
    assert p.between(0.01, 1).mean() > 0.8


@pytest.mark.parametrize(("seeds", "known"), [(1, False), (3, True)])
def test_students_can_be_permuted_only_where_there_are_several(seeds, known):
    found = tables.primed(some_metrics(seeds=seeds, shift=1.0), ARMS, seed=0)
    assert found["p_students"].notna().all() == known
    if known:
        assert found["p_students"].tolist() == [2 / 20] * len(found)  # 20 ways to deal six students to two groups


def test_one_prompt_cannot_be_tested():
    found = tables.primed(some_metrics(prompts=1), ARMS, seed=0)
    assert found[["p_prompts", "p_holm", "low"]].isna().all(axis=None)
    assert found["difference"].notna().all()


@pytest.mark.parametrize("arms", [["undistilled"], ["undistilled", "teacher"], ["undistilled", "none", "fine-tuned"]])
def test_without_both_kinds_of_student_there_is_no_test(arms):
    arms = [*arms, "constant-prefix", "shuffled", "published-teacher"]  # none of them is primed
    found = tables.primed(some_metrics(arms), arms, seed=0)
    assert found.empty
    assert list(found) == tables.TESTED
    assert tables.summary(some_metrics(arms), DIVERGENT, found)["tests"] == []
    assert "<table" in drawn.shown_tests(found).to_html()


def test_the_test_over_students_is_shown_where_there_are_seeds_enough_for_one():
    metrics = some_metrics()
    both = pd.concat([metrics, metrics.assign(seed=metrics["seed"] + 1)])
    shown = [drawn.shown_tests(tables.primed(some, ARMS, seed=0)).to_html() for some in (metrics, both)]
    assert ["p (students)" in page for page in shown] == [False, True]


def test_tables_name_the_regions_as_the_figures_do():
    for page in (drawn.shown_tests(tables.primed(some_metrics(), ARMS, seed=0)).to_html(),
                 drawn.shown_means(tables.means(some_metrics(), ARMS)).to_html()):  # fmt: skip
        assert "Prompt" in page
        assert "Solution" in page
        assert "solution" not in page


def test_the_summary_has_the_largest_relative_change():
    metrics = some_metrics()
    metrics[list(EVERY)] = 2.0
    metrics.loc[metrics["arm"] == "teacher", "density"] = 1.5
    metrics.loc[metrics["arm"] == "none", "entropy"] = 2.2
    found = tables.summary(metrics, DIVERGENT, tables.primed(metrics, ARMS, seed=0))
    assert found["change"] == {"metric": "density", "arm": "teacher", "share": -0.25}
    assert found["sink"] == [2.0] * len(ARMS)
    assert found["divergent"] == {"layer": 2, "head": 1}
    assert (found["prompts"], found["layers"], found["heads"], found["students"]) == (6, 3, 2, [])


def test_the_table_sets_published_means_beside_the_prompts(tmp_path, monkeypatch):
    (tmp_path / "prompts.yaml").write_text((paths.PARAMS / "prompts.yaml").read_text())
    (tmp_path / "published-results.yaml").write_text("attention: {entropy: {none: 1.1991}}")
    monkeypatch.setattr(paths, "PARAMS", tmp_path)
    metrics = some_metrics(["none", "undistilled"])
    table = tables.means(metrics, ["undistilled", "none"])
    titles = [arms.title("undistilled"), arms.title("none")]
    assert table[["Region", "Student"]].to_numpy().tolist() == [[r, t] for r in ("prompt", "solution") for t in titles]
    mean = metrics.query("arm == 'none' and region == 'prompt'")["entropy"].mean()
    assert table["Entropy (nats)"].iloc[1] == pytest.approx(mean)
    assert table["Entropy (nats), published"].fillna(0).tolist() == [0, 1.1991, 0, 0]


def test_the_table_does_without_published_means(tmp_path, monkeypatch):
    (tmp_path / "prompts.yaml").write_text((paths.PARAMS / "prompts.yaml").read_text())
    (tmp_path / "published-results.yaml").write_text("table: {}")
    monkeypatch.setattr(paths, "PARAMS", tmp_path)
    assert list(tables.means(some_metrics(["none"]), ["none"])) == ["Region", "Student", *EVERY.values()]


def test_tables_are_the_same_page_every_time():
    metrics = some_metrics()
    for style in (lambda: drawn.shown_tests(tables.primed(metrics, ARMS, seed=0)),
                  lambda: drawn.shown_means(tables.means(metrics, ARMS))):  # fmt: skip
        assert style().to_html() == style().to_html()
    assert PAPER["entropy"] in drawn.shown_tests(tables.primed(metrics, ARMS, seed=0)).to_html()


# --- layer by layer ---


def test_layers_are_means_over_heads_and_seeds_with_an_interval_over_prompts():
    rows = [
        {"region": "prompt", "arm": "none", "layer": 0, "head": head, "seed": seed, "prompt": prompt}
        | dict.fromkeys(EVERY, 10.0 * prompt + head)
        for head in (0, 1)
        for seed in (0, 1)
        for prompt in (0, 1, 2)
    ]
    table = tables.by_layer(pd.DataFrame(rows))
    assert list(table["number"]) == list(EVERY)
    assert (table["mean"] == 10.5).all()
    assert (table[["n", "seeds"]] == [3, 2]).all(axis=None)
    # 95 % of Student's t with two degrees of freedom: 4.303 standard errors of 10 / sqrt(3).
    assert list(table["high"] - table["mean"]) == pytest.approx([4.303 * 10 / 3**0.5] * len(EVERY), rel=1e-3)


def test_a_number_that_a_layer_lacks_has_no_row():
    row = {"region": "prompt", "arm": "none", "layer": 0, "head": 0, "seed": 0, "prompt": 0} | dict.fromkeys(EVERY, 1.0)
    table = tables.by_layer(pd.DataFrame([row | {"similarity": None}]))
    assert "similarity" not in set(table["number"])
