"""The checklist and the table of compute: what they say follows from manifests and parameters."""

import numpy as np
import pandas as pd
import pytest
from made_runs import write_elsewhere
from tests.report.test_page import finish_run

from response_priming import artifacts, params, paths
from response_priming.artifacts import manifests
from response_priming.report import checklist, citation, compute

LAPTOP, FULL = params.load("laptop"), params.load("laptop-full")
MADE = {"git_commit": 40 * "a", "git_changed": 0, "hardware": ["a processor", "8 GiB of memory"], "cpu_seconds": 90.0}


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    finish_run(tmp_path)
    for name in ("comparison", "audit", "claims", "attention"):
        change(tmp_path / "laptop" / name, MADE | {"wall_seconds": 60.0})
    folder = tmp_path / "laptop"
    write_elsewhere(folder / "students" / "none" / "seed-0", **MADE)
    answers = folder / "answers" / "none" / "seed-0"
    write_elsewhere(answers)
    pd.DataFrame({"tokens": [3, 4]}).to_parquet(answers / "answers.parquet")
    return folder


def change(folder, values, *without):
    """The folder's manifest with other values, or without some."""
    made = {key: value for key, value in (artifacts.manifest(folder) | values).items() if key not in without}
    (folder / artifacts.FILE).write_text(manifests.text_of(made))


def said(profile=LAPTOP, **changes):
    """The facts of the finished run and the answers that follow from them."""
    cited = citation.metadata(profile, {"abstract": "x"})
    found = checklist.facts(profile, compute.table(profile), cited) | changes
    return found, checklist.answers(found)


@pytest.mark.usefixtures("build")
def test_one_student_an_arm_has_no_significance_and_three_have():
    found, answers = said()
    assert answers["significance"] == "No"
    assert checklist.answers(found | {"profile": FULL})["significance"] == "Yes"


def test_an_answer_is_no_where_a_manifest_says_so(build):
    for name in ("comparison", "audit", "claims", "attention", "students/none/seed-0", "answers/none/seed-0"):
        change(build / name, MADE)
    assert said()[1]["reproducibility"] == "Yes"
    change(build / "audit", {"git_changed": 2})
    found, answers = said()
    assert (found["uncommitted"], answers["reproducibility"]) == (["audit"], "No")
    assert answers["compute"] == "Yes"
    change(build / "claims", {}, "cpu_seconds")
    assert said()[1]["compute"] == "No"


@pytest.mark.usefixtures("build")
def test_what_a_run_lacks_is_not_claimed():
    found, answers = said()
    assert answers["claims"] == "No"  # no rules were fixed
    assert answers["access"] == "No"  # no file has an address
    assert answers["assets"] == "No"  # a student without a card
    changed = {"fixed": {"before": True}, "address": "https://code.example", "without_card": []}
    better = checklist.answers(found | changed)
    assert {better[question] for question in ("claims", "access", "assets")} == {"Yes"}
    assert checklist.answers(found | changed | {"fixed": {"before": False}})["claims"] == "No"
    assert checklist.answers(found | {"limits": None})["limitations"] == "No"
    assert checklist.answers(found | {"proofs": ["thm"]})["theory"] == "Yes"
    assert checklist.answers(found | {"students": []})["assets"] == "NA"


@pytest.mark.usefixtures("build")
def test_every_answer_has_its_words_whatever_it_is(monkeypatch):
    cited, costs = citation.metadata(LAPTOP, {"abstract": "x"}), compute.table(LAPTOP)
    _, answers = said()
    for answer in ("Yes", "No", "NA"):
        monkeypatch.setattr(checklist, "answers", lambda _, answer=answer: dict.fromkeys(answers, answer))
        assert checklist.words(LAPTOP, costs, cited).count(f": {answer}.**") == len(answers)


def test_a_model_that_no_list_has_a_licence_for_is_not_passed_off_as_licensed():
    assert set(checklist.licences(LAPTOP).values()) == {"MIT", "Apache-2.0"}
    other = LAPTOP.model_copy(update={"model": LAPTOP.model.model_copy(update={"student": "someone/unheard-of"})})
    assert checklist.licences(other)["someone/unheard-of"] is None
    for name in ("paper", "gsm8k-laptop", "laptop-full"):
        assert None not in checklist.licences(params.load(name)).values()


# --- compute ---


def test_costs_are_the_sums_of_the_manifests_by_stage(build):
    change(build / "students/none/seed-0", {"joules": 5000.0, "peak_mib": 100.0})
    table = compute.table(LAPTOP).set_index("stage")
    assert list(table.index) == ["distill", "evaluate", "attention-visualize", "compare", "audit", "claims", "total"]
    assert table.loc["distill", "joules"] == 5000
    assert table.loc["total", "cpu_seconds"] == table["cpu_seconds"].iloc[:-1].sum()
    assert table.loc["evaluate", "tokens_written"] == 7
    assert np.isnan(table.loc["compare", "joules"])
    words = compute.words(compute.table(LAPTOP), MADE["hardware"])
    assert "| Students train | 1 | 90 |" in words
    assert "Energy is that of the processors" in words


def test_what_was_not_recorded_is_a_dash_and_no_zero(build):
    change(build / "comparison", {}, "cpu_seconds", "wall_seconds", "peak_mib")
    table = compute.table(LAPTOP)
    assert table.set_index("stage").loc[["compare", "total"], "cpu_seconds"].isna().all()
    words = compute.words(table, MADE["hardware"])
    assert "| Comparison | 1 | - | - | - | - | - |" in words.replace("\u2013", "-")
    assert "Energy was not readable on this machine." in words


def test_a_gpu_that_an_old_manifest_saw_has_seconds_that_nobody_counted(build):
    student = build / "students/none/seed-0"
    change(student, {"hardware": [*MADE["hardware"], "a GPU"]})
    assert np.isnan(compute.table(LAPTOP).set_index("stage").loc["distill", "gpu_seconds"])
    change(student, {"gpu_seconds": 12.0, "gpu_peak_mib": 2048.0})
    table = compute.table(LAPTOP)
    assert table.set_index("stage").loc["total", "gpu_seconds"] == 12
    assert "GPU 2,048" in compute.words(table, MADE["hardware"])


@pytest.mark.usefixtures("build")
def test_the_hardware_is_verbatim():
    assert "&#60;b&#62;" in compute.words(compute.table(LAPTOP), ["<b>"])
