import json

import made_logs
import pytest
from matplotlib.figure import Figure
from tests.test_cli import call

from response_priming import arms, params, paths, style
from response_priming.audit import discrepancies, figures, findings, released
from response_priming.errors import InputError
from response_priming.extraction import RULES

FACTS = arms.published()
RECORDED = FACTS["recount"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The audit of the recorded counts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", tmp_path_factory.mktemp("build"))
        return findings.audit(params.AuditRun())


def test_without_logs_the_record_is_shown_and_said_to_be_one(found):
    assert found.published.set_index("title").loc["KD, Ground Truth", "correct"] == 637
    assert "recorded ones: no copy of the logs was given" in found.variables["source"]


def test_logs_that_count_otherwise_than_the_record_are_owned_up_to(make_run, tmp_path):
    found = findings.audit(make_run("audit", logs_dir=str(made_logs.write(tmp_path / "logs"))))
    assert "differ from the recorded ones, first n = 4 (recorded: 1319)" in found.variables["source"]
    assert list(found.published["correct"]) == [2] * 6


def test_logs_that_count_as_the_record_are_said_to():
    assert "every one equals the recorded one" in discrepancies.source(RECORDED, FACTS)


def test_a_second_audit_counts_nothing_until_a_log_changes(make_run, tmp_path, monkeypatch):
    run = make_run("audit", logs_dir=str(made_logs.write(tmp_path / "logs")))
    findings.audit(run)
    read, reads = findings.read, []
    monkeypatch.setattr(findings, "read", lambda folder: reads.append(folder) or read(folder))
    findings.audit(run)
    assert not reads
    made_logs.write(tmp_path / "logs", {"base-KD.csv": made_logs.tables()["base-KD.csv"].assign(model_answer="5")})
    findings.audit(run)
    assert len(reads) == 1


def test_a_folder_that_is_gone_is_refused_whatever_was_made_before(make_run, tmp_path):
    folder = made_logs.write(tmp_path / "logs")
    findings.audit(make_run("audit", logs_dir=str(folder)))
    folder.rename(tmp_path / "gone")
    with pytest.raises(InputError, match="logs: no such folder"):
        findings.audit(make_run("audit", logs_dir=str(folder)))


@pytest.mark.parametrize("name", findings.TABLES)
def test_every_table_is_shown_with_all_its_columns(found, name):
    html = figures.shown(found, name).to_html().replace("\u200b", "")
    rules = ["student", "readme", "graded", *RULES]
    for heading in rules if name == "rules" else [heading for heading, _ in style.columns_of(name).values()]:
        assert f">{heading}</th>" in html
    assert "nan" not in html.replace("nano", "")


def test_the_published_table_sets_both_contradictions_side_by_side(found):
    html = figures.shown(found, "published").to_html()
    for printed in ("25.01\u00a0%", "22.97\u00a0%", "34.04\u00a0%", "37.83\u00a0%"):
        assert f">{printed}<" in html


def test_the_figure_has_every_arm_in_every_row_and_hollow_markers_for_the_readme(found):
    figure = figures.figure(found)
    assert isinstance(figure, Figure)
    lines = figure.axes[0].lines
    hollow = [line for line in lines if line.get_markerfacecolor() == "none"]
    assert (len(lines), len(hollow)) == (12, 6)
    assert [label.get_text().replace("-\n", "-") for label in figure.axes[0].get_yticklabels()] == [
        "README",
        "marked in the log",
        *RULES,
    ]


# --- discrepancies ---


def test_every_sentence_finds_its_values_and_no_value_stays_in_braces(found):
    table = found.discrepancies
    assert len(table) == len(FACTS["discrepancies"]) == 12
    assert not table.astype(str).apply(lambda column: column.str.contains("[{}]")).to_numpy().any()


@pytest.mark.parametrize(("accuracy", "counts"), [(0.2501, [330]), (0.3404, [449]), (0.4814, [635]), (1.0, [1319])])
def test_the_count_behind_a_printed_per_cent(accuracy, counts):
    assert discrepancies.fitting(accuracy, 1319) == counts


def test_numbers_are_those_of_the_counts(found):
    numbers = found.variables
    assert (numbers["gain_printed"], numbers["gain"]["relative"]) == pytest.approx((0.572, 0.550), abs=5e-4)
    assert (numbers["control"]["cap"], set(numbers["cap"])) == (50, {350})
    assert (min(numbers["capped"]), max(numbers["capped"])) == pytest.approx((97.8, 98.7), abs=0.05)
    assert [round(share) for share in sorted(numbers["boxed_right"])] == [76, 80, 81, 81]
    assert (round(min(numbers["unboxed_right"])), round(max(numbers["unboxed_right"]))) == (11, 15)
    assert numbers["matching"] == 1
    assert next(iter(numbers["order"]["boxed_first"])) == "ground-truth"


# --- the command ---


def test_the_command_prints_a_json_row_for_every_arm_and_rule(tmp_path):
    done = call("audit", made_logs.write(tmp_path), "--json")
    rows = json.loads(done.stdout)
    assert done.returncode == 0
    assert {(row["arm"], row["rule"]) for row in rows} == {
        (arm, rule) for arm in released.LOGS for rule in (*RULES, "graded", "readme")
    }
    assert "differ from the recorded ones" in done.stderr


def test_the_command_prints_a_table(tmp_path):
    lines = call("audit", made_logs.write(tmp_path)).stdout.splitlines()
    assert lines[0].split() == ["arm", "rule", "n", "answered", "correct", "accuracy", "low", "high"]
    assert len(lines) == 1 + len(released.LOGS) * (len(RULES) + 2)


def test_the_command_refuses_a_bad_folder_in_one_line(tmp_path):
    done = call("audit", made_logs.write(tmp_path, {"ai-KD.csv": None}))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "ai-KD.csv: no such file; expected there: " in done.stderr


# --- the parameter ---


def test_the_environment_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PUBLISHED_LOGS", str(tmp_path))
    assert params.load("laptop").audit.logs_dir == str(tmp_path)
    monkeypatch.delenv("PUBLISHED_LOGS")
    assert params.load("laptop").audit.logs_dir is None
