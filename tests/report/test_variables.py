"""The variables of the manuscript: every sentence of their template, by the numbers that decide which one it is."""

from html import unescape

import numpy as np
import pandas as pd
import pytest
from tests.attention.test_differences import ARMS, DIVERGENT, some_metrics
from tests.report.test_page import finish_run

from response_priming import arms, notebooks, params, paths
from response_priming.attention import differences
from response_priming.attention.results import EVERY
from response_priming.params import sections
from response_priming.report import preview, variables

PROFILE = params.load("laptop")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The values of a finished run."""
    root = tmp_path_factory.mktemp("build")
    finish_run(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", root)
        yield variables.values(PROFILE, "pandoc preview")


@pytest.fixture
def said(finished):
    """The texts of that run, with other values."""
    return lambda **changes: variables.texts(finished | changes)


def test_every_key_has_a_text(said):
    found = said()
    assert list(found) == variables.known()
    assert all(isinstance(text, str) and text and "  " not in text for text in found.values())


def test_every_setting_made_for_the_prose_is_used():
    text = (paths.REPORT / "index.qmd").read_text()
    used = {match["value"] for match in preview.SHORTCODE.finditer(text) if match["name"] == "var"}
    assert {key for key in variables.known() if key.endswith(("_setting", "_limit")) or "released_" in key} <= used
    assert {"extras", "command", "renderer", "git_commit", "made_on", "versions", "machine", "claims_total"} <= used


def test_strategies_are_the_profiles_with_their_prefixes_word_for_word():
    some = PROFILE.model_copy(update={"arms": ["undistilled", "none", "confidence"]})
    entries = arms.strategies()
    assert unescape(variables.strategies_table(some)).splitlines()[2:] == [
        f"| {entries['none']['title']} | (empty) |",
        f"| {entries['confidence']['title']} | {entries['confidence']['prefix'].strip()} |",
    ]


# --- settings ---


@pytest.mark.parametrize("name", params.profiles())
def test_settings_have_the_same_keys_for_every_profile(said, name):
    found = said(**variables.settings(params.load(name)))
    assert list(found) == variables.known()
    assert all(found.values())


def test_overrides_are_owned_up_to(said):
    overrides = {"none": {"lora_dropout": 0.2, "train_steps": 9}, "teacher": {"alpha": 0.3}}
    found = said(**variables.settings(PROFILE.model_copy(update={"overrides": overrides})))
    assert found["overrides_setting"] == (
        "Some arms are trained differently (KD, no prompt: lora dropout 0.2, train steps 9; KD, Teacher: alpha 0.3), "
        "so more than the prefix sets them apart."
    )


@pytest.mark.parametrize("executed", [(), ("search",), ("ladder", "search")])
def test_the_prose_says_where_the_ladder_and_the_search_are(said, executed):
    found = said(executed={stage: notebooks.PAGES[stage] for stage in executed})["extras"]
    for stage, goal in (("ladder", "make ladder"), ("search", "make search")):
        assert (f"*{notebooks.PAGES[stage]}*" in found) == (stage in executed)
        assert (f"`{goal} PROFILE=laptop`" in found) == (stage not in executed)


@pytest.mark.parametrize(
    ("adapter", "text"),
    [
        ("lora", "the same model with a LoRA adapter of rank 8 on its layers q_proj, k_proj, v_proj, o_proj, trained"),
        ("qlora", "is the same model in 4 bits (NF4) with a LoRA adapter of rank 8 on its layers q_proj,"),
        ("full", "is the same model, all weights of which are trained"),
    ],
)
def test_the_text_says_what_of_the_students_was_trained(said, adapter, text):
    profile = PROFILE.model_copy(update={"distill": PROFILE.distill.model_copy(update={"adapter": adapter})})
    assert text in said(**variables.settings(profile))["adapter_setting"]


def test_problems_of_a_folder_are_not_passed_off_as_others(said, tmp_path):
    local = sections.Problems(dataset="local", data_dir=str(tmp_path))
    found = said(**variables.settings(PROFILE.model_copy(update={"problems": local})))
    texts = found["problems_setting"] + found["scale_limit"]
    assert "local folder" in texts
    assert "GSM8K" not in texts
    assert "generator" not in texts


@pytest.mark.parametrize("name", ["org/model", '/models/it\'s: a "name" # of its own'])
def test_a_model_may_have_any_name(said, name):
    model = PROFILE.model.model_copy(update={"student": name})
    found = said(**variables.settings(PROFILE.model_copy(update={"model": model})))
    assert f", the student {name}." in unescape(found["models_setting"])
    assert unescape(found["scale_limit"]).startswith(f"The student is {name}; ")


# --- what was compared ---


def accuracy_of(**shares):
    rows = [
        {"arm": arm.replace("_", "-"), "accuracy": share, "low": share - 0.05, "high": share + 0.05}
        for arm, share in shares.items()
    ]
    return pd.DataFrame(rows, columns=["arm", "accuracy", "low", "high"])


COLUMNS = ["arm", "baseline", "points", "low", "high", "relative", "relative_low", "relative_high"]
COLUMNS += ["differ", "p_holm", "seeds"]


def headline(accuracy, gains=(), teacher=()):
    tables = pd.DataFrame(gains, columns=COLUMNS), pd.DataFrame(teacher, columns=["arm", "accuracy"])
    return variables.headline(accuracy, *tables)


def gain(arm, baseline, points, *, p_holm=0.01, differ=40, half_width=4.0, seeds=1):
    ends = points - half_width, points + half_width
    return (arm, baseline, points, *ends, 0.1, 0.0, 0.2, differ, p_holm, seeds)


@pytest.mark.parametrize(
    ("points", "changes", "clause"),
    [
        (14.5, {}, "beats the undistilled student by more than the width of its interval"),
        (9.5, {}, "beats the undistilled student significantly but by less than the width of its interval"),
        (14.5, {"half_width": 15.0}, "does not beat the undistilled student"),
        (14.5, {"p_holm": 0.05}, "does not beat the undistilled student"),
        (-14.5, {}, "does not beat the undistilled student"),
        (None, {}, "not run"),
    ],
)
def test_beats_undistilled(said, points, changes, clause):
    gains = [] if points is None else [gain("none", "undistilled", points, **changes)]
    found = headline(accuracy_of(undistilled=0.2, none=0.47), gains)
    assert said(**found)["beats_undistilled"] == clause


@pytest.mark.parametrize(
    ("points", "changes", "start"),
    [
        (5.0, {}, "supported"),
        (5.0, {"p_holm": 0.05}, "not supported"),
        (-5.0, {}, "not supported"),
        (5.0, {"half_width": 5.0}, "not supported"),
        (0.1, {"differ": 5}, "not testable"),
        (None, {}, "not testable"),
    ],
)
def test_priming_verdict(said, points, changes, start):
    gains = [] if points is None else [gain("teacher", "none", points, **changes)]
    found = said(**headline(accuracy_of(none=0.4, teacher=0.5), gains))["priming_verdict"]
    assert found.startswith(f"{start} here")


@pytest.mark.parametrize("points", [5.0, -5.0])
def test_the_verdict_on_priming_says_how_many_training_seeds_it_rests_on(said, points):
    for seeds, words in ((1, "one training seed"), (3, "3 training seeds")):
        found = headline(accuracy_of(none=0.4, teacher=0.5), [gain("teacher", "none", points, seeds=seeds)])
        verdict = said(**found)["priming_verdict"]
        assert f" here, with {words}: the best primed student is " in verdict
        assert ("is not significantly more accurate" in verdict) == (points < 0)


def test_best_is_the_most_accurate_of_the_arms_asked_for():
    found = headline(accuracy_of(undistilled=0.9, none=0.3, teacher=0.5, confidence=0.5))
    assert found["best_kd"]["arm"] == found["best_primed"]["arm"] == "teacher"
    found = headline(accuracy_of(undistilled=0.9, none=0.3))
    assert (found["best_kd"]["arm"], found["best_primed"]) == ("none", None)
    assert headline(accuracy_of(undistilled=0.9))["best_kd"] is None


def test_every_text_of_the_manuscript_is_there_whatever_arms_were_run(said):
    found = said(**headline(accuracy_of(undistilled=0.2)))
    assert list(found) == variables.known()
    assert found["best_kd_arm"] == found["primed_gain"] == found["teacher_best_accuracy"] == "not run"


def test_texts_carry_their_units(said):
    found = said(
        **headline(
            accuracy_of(undistilled=0.185, none=0.4, teacher=0.505),
            [
                ("none", "undistilled", 21.5, 15, 28, 1.16, 0.7, 1.9, 70, 1e-7, 1),
                ("teacher", "undistilled", 32.0, 25, 39, 1.73, 1.2, 2.4, 76, 1e-9, 1),
                ("teacher", "none", 10.5, 2, 19, 0.26, 0.04, 0.52, 59, 0.0123, 1),
            ],
            [("none", 0.6), ("teacher", 0.7)],
        )
    )
    assert found["undistilled_accuracy"] == "18.5 %"
    assert found["undistilled_interval"] == "13.5 to 23.5 %"
    assert found["best_kd_arm"] == found["best_primed_arm"] == found["teacher_best_strategy"] == "KD, Teacher"
    assert (found["best_kd_gain"], found["best_kd_p"]) == ("32.0 points", "p < 0.001")
    assert (found["primed_gain_interval"], found["primed_p"]) == ("2.0 to 19.0 points", "p = 0.012")
    assert (found["primed_relative_gain"], found["primed_relative_gain_interval"]) == ("26.0 %", "4.0 to 52.0 %")
    assert found["teacher_worst_accuracy"] == "60.0 %"
    assert found["student"].startswith("SmolLM2")


def test_neutral_words_are_set_against_the_best_primed_arm_where_they_were_tried(said):
    accuracy = accuracy_of(none=0.4, teacher=0.5, constant_prefix=0.45)
    assert "not tested" in said(**headline(accuracy[:2]))["neutral_words"]
    pair = ("teacher", "constant-prefix", 5.0, -1, 11, 0.1, -0.02, 0.2, 59, 0.2, 3)
    found = said(**headline(accuracy, [pair]))["neutral_words"]
    assert "scores 45.0 % (interval: 40.0 to 50.0 %)" in found
    assert "gain over it is 5.0 points (interval: -1.0 to 11.0 points; corrected McNemar test: p = 0.200)" in found


def test_a_control_or_an_arm_as_released_is_never_the_best_primed_one():
    found = headline(accuracy_of(none=0.3, teacher=0.4, shuffled=0.9, constant_prefix=0.9, published_confidence=0.9))
    assert found["best_primed"]["arm"] == found["best_kd"]["arm"] == "teacher"


# --- attention ---


def summary(metrics, arms=ARMS):
    return differences.summary(metrics, DIVERGENT, differences.primed(metrics, arms, seed=0))


def test_the_prose_names_the_largest_relative_change(said):
    metrics = some_metrics()
    metrics[list(EVERY)] = 2.0
    metrics.loc[metrics["arm"] == "teacher", "density"] = 1.5
    metrics.loc[metrics["arm"] == "none", "entropy"] = 2.2
    found = said(attention=summary(metrics))
    assert (found["attention_change_metric"], found["attention_change"]) == ("density", "-25.0 %")
    assert found["attention_change_arm"] == "KD, Teacher"
    assert found["attention_sink"] == "200.0 % to 200.0 %"
    assert (found["divergent_layer"], found["divergent_head"]) == ("2", "1")
    assert "With one training seed" in found["attention_seeds"]


def test_attention_of_one_arm_has_no_change_and_no_test(said):
    found = said(attention=summary(some_metrics(["undistilled"]), ["undistilled"]))
    assert found["attention_change"] == found["attention_change_arm"] == found["attention_change_metric"] == "not run"
    assert "cannot be tested" in found["attention_test"]


def test_the_prose_counts_the_comparisons_in_which_attention_differs(said):
    found = said(attention=summary(some_metrics(prompts=10, seeds=3, shift=1.0)))
    number = 2 * len(EVERY)
    assert f"in {number} of {number} comparisons (smallest corrected p: 0.02" in found["attention_test"]
    assert f"the smallest of {number} p is 0.1." in found["attention_seeds"]
    assert not np.isnan(summary(some_metrics())["tests"]).any()
