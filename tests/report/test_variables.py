"""The variables of the manuscript: every sentence of their template, by the numbers that decide which one it is."""

import json
import re
import shlex
from html import unescape

import numpy as np
import pandas as pd
import pytest
from tests.attention.test_differences import ARMS, DIVERGENT, some_metrics
from tests.report.test_page import finish_run

from response_priming import arms, artifacts, notebooks, params, paths, provenance
from response_priming.artifacts import manifests
from response_priming.attention import differences
from response_priming.attention.results import EVERY
from response_priming.params import sections
from response_priming.report import origins, preview, variables

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
    """The texts of that run, with other values, as they are read."""
    return lambda **changes: {key: origins.bare(text) for key, text in variables.texts(finished | changes).items()}


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


@pytest.mark.parametrize("executed", [(), ("search",), ("ladder", "search"), ("related",)])
def test_the_prose_says_where_the_ladder_the_search_and_the_related_methods_are(said, executed):
    texts = said(executed={stage: notebooks.PAGES[stage] for stage in executed})
    found = texts["extras"] + texts["related"]
    for stage, goal in (("ladder", "make ladder"), ("search", "make search"), ("related", "make related")):
        assert (f"*{notebooks.PAGES[stage]}*" in found) == (stage in executed)
        assert (f"`{goal} PROFILE=laptop`" in found) == (stage not in executed)


def test_the_page_says_why_distillation_loses_where_the_doctor_was_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    assert "`make doctor PROFILE=laptop` does" in variables.diagnosis(PROFILE)
    node, folder = notebooks.find(PROFILE, "doctor"), tmp_path / "laptop" / "doctor"
    for part in (node.executed.parent, folder):
        part.mkdir(parents=True)
    node.executed.write_text("{}")
    columns = ["arm", "seed", "check", "value", "low", "high", "finding"]
    rows = [("", 0, "teacher-bare", 0.2, "", "", ""), ("none", 0, "stored-likelihood", "", -0.1, 0.1, "")]
    rows += [(arm, 0, "truncated", 0.5, 0, 0.1, "truncated") for arm in ("none", "teacher")]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "checks.csv", index=False)
    pd.DataFrame(columns=["rung"]).to_csv(folder / "rungs.csv", index=False)
    said = unescape(" ".join(origins.bare(variables.diagnosis(PROFILE)).split()))
    assert "Of 2 trained students" in said
    assert "- *KD, no prompt; KD, Teacher.* 50 % of the responses were cut before their end" in said
    assert "|" not in said
    rungs = pd.DataFrame({"title": ["a", "b", "c"], "accuracy": [0.2, 0.5, 0.6], "points": [None, 30, 10]})
    rungs = rungs.assign(accuracy_low=rungs["accuracy"] - 0.1, accuracy_high=rungs["accuracy"] + 0.1)
    rungs.to_csv(folder / "rungs.csv", index=False)
    pd.DataFrame(rows[:2], columns=columns).to_csv(folder / "checks.csv", index=False)
    said = unescape(" ".join(origins.bare(variables.diagnosis(PROFILE)).split()))
    assert "Of 1 trained student," in said
    assert "Nothing is wrong with them" in said
    assert "| b | 50.0 % | 40.0 to 60.0 % | +30.0 |" in said
    assert "The largest step, +30.0 of +40.0 points, is this one: b." in said


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
    table = pd.DataFrame(rows, columns=["arm", "accuracy", "low", "high"])
    return table.assign(accuracy_finished=table["accuracy"])


SIZES = {"n": 200, "clusters": 200, "differ": 40, "seeds": 3, "detectable": 9.5}
SIZES |= {"needed_problems": 320.0, "needed_seeds": 5.0}


def gain(arm, baseline, points, *, half_width=4.0, p=0.01, **changed):
    """A row of `tables.gains`; alone, its interval is half as wide as corrected."""
    row = {"arm": arm, "baseline": baseline, "points": points, "p": p, "alone_p": p / 2}
    row |= {"low": points - half_width, "high": points + half_width}
    row |= {"alone_low": points - half_width / 2, "alone_high": points + half_width / 2}
    return row | {"relative": 0.1, "relative_low": 0.0, "relative_high": 0.2} | SIZES | changed


def headline(accuracy, gains=(), teacher=()):
    columns = list(gain("none", "undistilled", 0.0))
    tables = pd.DataFrame(list(gains), columns=columns), pd.DataFrame(teacher, columns=["arm", "accuracy"])
    return variables.headline(accuracy, *tables)


@pytest.mark.parametrize(
    ("points", "changes", "clause"),
    [
        (14.5, {}, "beats the undistilled student by more than the width of its interval"),
        (9.5, {}, "beats the undistilled student significantly but by less than the width of its interval"),
        (14.5, {"half_width": 15.0}, "does not beat the undistilled student"),
        (-14.5, {}, "does not beat the undistilled student"),
        (14.5, {"seeds": 1}, "beats the undistilled student, as far as one student an arm can tell"),
        (-14.5, {"seeds": 2}, "does not beat the undistilled student, as far as these 2 students an arm can tell"),
        (None, {}, "not run"),
    ],
)
def test_beats_undistilled(said, points, changes, clause):
    gains = [] if points is None else [gain("none", "undistilled", points, **changes)]
    found = headline(accuracy_of(undistilled=0.2, none=0.47), gains)
    assert said(**found)["beats_undistilled"] == clause


@pytest.mark.parametrize(
    ("points", "neutral", "changes", "start"),
    [
        (5.0, 5.0, {}, "supported here, with 3 students an arm: "),
        (5.0, 1.0, {}, "not supported here, with 3 students an arm: students of Ground Truth are not significantly "
         "more accurate than those of neutral words"),
        (1.0, 5.0, {}, "not supported here, with 3 students an arm: students of Ground Truth are not significantly "
         "more accurate than unprimed ones"),
        (5.0, 5.0, {"half_width": 9.0}, "supported here"),  # chosen before the run, and so not corrected
        (5.0, 5.0, {"seeds": 1}, "not settled by this profile (students an arm: 1 of 3 needed): what is said of it "
         "here is said of these 2 students"),
        (5.0, None, {}, "not settled by this profile (no arm with neutral words)"),
        (5.0, None, {"seeds": 2}, "not settled by this profile (students an arm: 2 of 3 needed; no arm with"),
        (0.1, 5.0, {"differ": 5}, "not testable here: the two students disagree"),
        (None, None, {}, "not testable here: students of Ground Truth"),
    ],
)  # fmt: skip
def test_priming_verdict(said, points, neutral, changes, start):
    pairs = {"none": points, "constant-prefix": neutral}
    gains = [gain("ground-truth", one, by, **changes) for one, by in pairs.items() if by is not None]
    found = said(**headline(accuracy_of(none=0.4, ground_truth=0.5), gains))
    assert found["priming_verdict"].startswith(start)
    if points is not None:
        assert "would have found a gain of 9.5 points four times in five; the one" in found["primary_power"]
        assert "320 problems and 5 students an arm" in found["conclusion"]


def test_the_conclusion_follows_the_verdicts(said):
    accuracy = accuracy_of(undistilled=0.1, fine_tuned=0.8, none=0.4, ground_truth=0.5, constant_prefix=0.5)
    pairs = [("ground-truth", "none", 8), ("ground-truth", "undistilled", 40), ("ground-truth", "fine-tuned", -30)]
    for neutral, students, words in (
        (8, 3, "priming the teacher by Ground Truth makes better students, and what the prefix says has a part in it."),
        (0, 3, "makes better students than no prefix does, but not shown to be better than those of neutral words."),
        (8, 2, "Whether priming the teacher makes better students is not settled by this profile."),
    ):
        rows = [gain(*pair, seeds=students) for pair in [*pairs, ("ground-truth", "constant-prefix", neutral)]]
        found = said(**headline(accuracy, rows))
        assert words in found["conclusion"]
        assert "stays behind fine-tuning on worked solutions" in found["conclusion"]
        assert ("as far as these 2 students an arm can tell" in found["conclusion"]) == (students == 2)
        assert "scores 80.0 %: 30.0 points more than the best distilled student" in found["fine_tuning"]


@pytest.mark.parametrize(("date", "words"), [("2026-01-02 10:00", "before"), ("2026-01-02 12:00", "after")])
def test_the_page_says_when_the_rules_were_written_and_by_which_digest(said, tmp_path, date, words):
    for part, name, day in (
        ("rules", "rules.json", date),
        ("answers/none/seed-0", "answers.parquet", "2026-01-02 11:00"),
    ):
        with artifacts.writing(tmp_path / part, {}) as folder:
            (folder / name).write_text("{}")
        manifest = artifacts.read(tmp_path / part)
        (tmp_path / part / artifacts.FILE).write_text(manifests.text_of(manifest | {"date": day}))
    fixed = variables.rules_fixed(tmp_path)
    found = said(fixed=fixed)["rules_fixed"]
    assert f"(SHA-256 {provenance.digest(tmp_path / 'rules' / 'rules.json').removeprefix('sha256:')})" in found
    assert f"{date} UTC, {words} the first evaluation." in found
    assert "not on record" in said(fixed=variables.rules_fixed(tmp_path / "nowhere"))["rules_fixed"]


def test_a_page_of_few_students_shows_the_table_of_more():
    table = variables.settled_table(PROFILE)
    assert "\n| student | answers |" in table
    assert table.count("| KD, ") == 6
    assert variables.settled_table(params.load("laptop-full")) == variables.settled_table(params.load("paper")) == ""


def test_the_problems_with_the_most_calculations_are_told_of(said):
    wanted = (
        "Of the problems with 2 calculations, the best distilled student solves 25.2 % and the fine-tuned one 15.2 %."
    )
    assert said()["longest"] == wanted
    assert "not set beside" in said(fine_tuned=None)["longest"]


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
            accuracy_of(undistilled=0.185, none=0.4, teacher=0.505, ground_truth=0.45),
            [
                gain("none", "undistilled", 21.5, half_width=6.5, p=1e-7),
                gain("teacher", "undistilled", 32.0, half_width=7.0, p=1e-9),
                gain("teacher", "none", 10.5, half_width=8.5, p=0.0123),
                gain("ground-truth", "none", 5.0, relative=0.125, relative_low=0.04, relative_high=0.52),
            ],
            [("none", 0.6), ("teacher", 0.7)],
        )
    )
    assert found["undistilled_accuracy"] == "18.5 %"
    assert found["undistilled_interval"] == "13.5 to 23.5 %"
    assert found["best_kd_arm"] == found["best_primed_arm"] == found["teacher_best_strategy"] == "KD, Teacher"
    assert (found["best_kd_gain"], found["best_kd_p"]) == ("32.0 points", "p < 0.001")
    assert (found["primed_gain_interval"], found["primed_p"]) == ("2.0 to 19.0 points", "p = 0.012")
    assert found["primary_gain"] == "5.0 points (95 % interval: 3.0 to 7.0 points; p = 0.005)"
    assert found["primary_relative_gain"] == "12.5 % (interval: 4.0 to 52.0 %)"
    assert found["teacher_worst_accuracy"] == "60.0 %"
    assert found["student"].startswith("SmolLM2")


@pytest.mark.parametrize(("points", "mattered"), [(5.0, True), (1.0, False)])
def test_ground_truth_is_set_against_neutral_words_where_they_were_tried(said, points, mattered):
    accuracy = accuracy_of(none=0.4, ground_truth=0.5, constant_prefix=0.45)
    assert "not tested" in said(**headline(accuracy[:2]))["neutral_words"]
    found = said(**headline(accuracy, [gain("ground-truth", "constant-prefix", points)]))["neutral_words"]
    assert "score 45.0 % (interval: 40.0 to 50.0 %)" in found
    assert f"gain of Ground Truth is {points} points (95 % interval: {points - 2} to {points + 2} points" in found
    assert ("what the prefix says is not shown to matter" in found) != mattered


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


def test_leaked_problems_are_counted_over_both_splits(said):
    rows = [{"split": split, "n": 9, "exact": 0, "numbers": 1, "near": 2, "threshold": 0.4} for split in ("a", "b")]
    assert "Of the 9 test problems, 0 are also among" in said(leaked=rows)["leakage"]
    assert "2 are there with other numbers, and 4 nearly" in said(leaked=rows)["leakage"]
    assert said()["leakage"].startswith("None of the 200 test problems is")


def test_the_student_that_is_shown_examples_and_the_disputed_problems_are_told_of(said, finished):
    row = {"arm": "undistilled-examples", "accuracy": 0.3, "low": 0.25, "high": 0.36}
    assert "scores 30.0 % (interval: 25.0 to 36.0 %)" in said(shown=row)["shown_accuracy"]
    assert "not measured" in said()["shown_accuracy"]
    released = finished["released"] | {"disputed": 7, "survives": ["yes", "no", "yes", "was not borne out"]}
    told = said(released=released)["released_cleaned"]
    assert "Without 7 problems whose answers are disputed, 2 of the 3 claims" in told


# --- origins ---

APART = r"95 % interval"  # what is said beside a number, and is none of the results


def result_keys():
    """The variables that the sections of the manuscript with results name."""
    text = (paths.REPORT / "index.qmd").read_text()
    sections = dict(re.findall(r"^# ([^\n{]+?)(?: \{[^\n]*)?\n(.*?)(?=^# |\Z)", text, re.MULTILINE | re.DOTALL))
    others = ("The question", "Method", "Threats", "How to", "Reproducibility", "Notebooks", "References")
    shown = "\n".join(text for title, text in sections.items() if not title.startswith(others))
    return {match["value"] for match in preview.SHORTCODE.finditer(shown) if match["name"] == "var"}


CASES = {
    "finished": lambda: {},
    "students": lambda: headline(
        accuracy_of(undistilled=0.1, fine_tuned=0.8, none=0.4, ground_truth=0.5, constant_prefix=0.5),
        [gain("ground-truth", one, by) for one, by in
         [("none", 8), ("undistilled", 40), ("fine-tuned", -30), ("constant-prefix", 1)]],
    ),
    "few": lambda: headline(
        accuracy_of(undistilled=0.1, none=0.4, ground_truth=0.5), [gain("ground-truth", "none", 8, seeds=2)]
    ),
    "nothing": lambda: headline(accuracy_of(undistilled=0.2)),
    "attention": lambda: {"attention": summary(some_metrics(prompts=10, seeds=3, shift=1.0))},
    "leaked": lambda: {"leaked": [{"split": "a", "n": 9, "exact": 0, "numbers": 1, "near": 2, "threshold": 0.4}]},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_number_of_a_result_leads_to_its_origin(finished, case):
    keys = result_keys()
    assert len(keys) > 40
    found = variables.texts(finished | CASES[case]())
    left = {key: re.sub(r"<a .*?</a>|" + APART, "", found[key]) for key in keys}
    assert {key: text for key, text in left.items() if re.search(r"(?<![A-Za-z\d])\d", unescape(text))} == {}
    assert sum(len(origins.LINK.findall(found[key])) for key in keys) > 30


@pytest.mark.parametrize("name", params.profiles())
def test_every_parameter_of_the_method_has_a_command_that_the_schema_allows(finished, name):
    profile = params.load(name)
    cards = re.findall(r'class="parameter" href="([^"]*)" aria-description="([^"]*)"',
                       " ".join(variables.texts(finished | variables.settings(profile)).values()))  # fmt: skip
    assert len(cards) > 15
    stems = {node.name for node in notebooks.nodes(profile)}
    for address, card in cards:
        assert address.partition("-preview.html#injected-parameters")[0] in stems
        parameter, _, rest = unescape(card).partition(": ")
        if parameter != "evaluate.rule":
            command = shlex.split(rest.partition("change it: ")[2].partition(";")[0])
            assert command[:3] == ["make", "explore", f"PROFILE={name}"]
            setting, _, value = command[3].removeprefix("SET=").partition("=")
            assert setting == parameter
            value = json.loads(value) if value[0] in "0123456789[" else value
            assert profile.changed(parameter, value) != profile


def test_what_was_tried_is_said_on_the_card(finished):
    tried = {"train_steps": ["80 (KD, no prompt): +3.5 points (-1.0 to 8.0)"]}
    found = variables.texts(finished | {"tried": tried})
    assert "; with 80 (KD, no prompt)&#58; +3.5 points (-1.0 to 8.0)" in found["train_steps"]
    assert "; with" not in found["train_batch"]
    assert origins.bare(found["train_steps"]) == "40"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("18.5 %", ["18.5 %"]),
        (
            "9.5 points (95 % interval: -4.2 to 14.8 points; p < 0.001)",
            ["9.5 points", "-4.2 to 14.8 points", "p < 0.001"],
        ),
        ("1,319 of GSM8K, SmolLM2", ["1,319"]),
        ("students an arm: 1 of 3 needed; 35.0 % to 36.9 %.", ["1 of 3", "35.0 % to 36.9 %"]),
        ("p = 0.012, not run", ["p = 0.012"]),
    ],
)
def test_what_is_said_as_one_number_is_one_link(text, numbers):
    known = {"gains": origins.Origin("a.html#b", "a file")}
    linked = origins.linked(text, "gains", {"n": 1319, "seeds": 3}, known=known)
    assert re.findall(r"<a [^>]*>(.*?)</a>", linked) == numbers
    assert 'aria-description="n = 1,319 , 3 seeds; a file"' in linked
    assert origins.bare(linked) == text
