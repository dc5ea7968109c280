import json

import made_logs
import numpy as np
import pytest
from tests.test_cli import call

from response_priming import arms
from response_priming.audit import cleaned, findings, recount, released
from response_priming.errors import InputError

FACTS = arms.published()


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Logs of 60 problems, on the first sixteen of which the primed arms alone are right; the rest is for everyone."""
    known = made_logs.tables()
    shared = np.arange(60) % 4 == 0
    changed = {}
    questions = [f"How many is {number}?" for number in range(60)]
    rows = known[released.REFERENCE].iloc[[0] * 60].reset_index(drop=True).assign(question=questions)
    changed[released.REFERENCE] = rows
    for arm, name in released.LOGS.items():
        right = shared | (np.arange(60) < 16 if arms.is_primed(arm) else False)
        said = np.where(right, "So \\boxed{5}", "So \\boxed{6}")
        log = known[name].iloc[[0] * 60].reset_index(drop=True).assign(question=questions, model_answer=said)
        changed[name] = log
    return made_logs.write(tmp_path_factory.mktemp("logs"), changed)


@pytest.fixture
def listed(tmp_path):
    """Writes a list of disputed problems."""

    def write(text, name="disputed.txt"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("3\n\n 11 \r\n3\n", "a.txt"),
        ('{"problem": 3}\n{"problem": 11}\n', "a.jsonl"),
        ("problem,why\n11,unclear\n3,wrong\n", "a.csv"),
    ],
)
def test_a_list_is_read_in_each_of_its_forms(listed, text, name):
    assert cleaned.read_disputed(listed(text, name), 12) == [3, 11]


@pytest.mark.parametrize(
    ("text", "name", "problem"),
    [
        ("3\ntwelve\n", "a.txt", r"a.txt: row 2: problem = 'twelve': allowed: a whole number from 0 to 11"),
        ("12\n", "a.txt", "a.txt: row 1: problem = '12': allowed: a whole number from 0 to 11"),
        ("-1\n", "a.txt", "row 1: problem = '-1'"),
        ('{"number": 1}\n', "a.jsonl", "row 1: problem = 'None'"),
        ("", "a.txt", "a.txt: names 0 of 12 problems; allowed: from 1 to 10"),
        ("\n".join(map(str, range(11))), "a.txt", "a.txt: names 11 of 12 problems"),
    ],
)
def test_a_bad_list_is_refused_in_one_line(listed, text, name, problem):
    with pytest.raises(InputError, match=problem) as refused:
        cleaned.read_disputed(listed(text, name), 12)
    assert len(str(refused.value).splitlines()) == 1


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.txt: no such file"):
        cleaned.read_disputed(tmp_path / "nowhere.txt", 12)


def test_a_claim_that_hangs_on_disputed_problems_does_not_survive(make_run, logs, listed):
    disputed = listed("\n".join(map(str, range(16))))
    found = findings.audit(make_run("audit", logs_dir=str(logs), disputed=str(disputed)))
    table = found.cleaned.set_index("claim")["survives"]
    assert table[FACTS["claims"]["priming"]["claim"]] == "no"
    assert table[FACTS["claims"]["over-fine-tuning"]["claim"]] == "no"
    assert table[FACTS["claims"]["distillation"]["claim"]] == "was not borne out"
    assert not found.cleaned.map(lambda text: "{{" in text).to_numpy().any()
    assert found.variables["disputed"] == 16
    assert found.variables["survives"] == list(table)


def test_another_list_is_another_audit(make_run, logs, listed):
    before = findings.audit(make_run("audit", logs_dir=str(logs), disputed=str(listed("13\n"))))
    after = findings.audit(make_run("audit", logs_dir=str(logs), disputed=str(listed("0\n1\n"))))
    assert (before.variables["disputed"], after.variables["disputed"]) == (1, 2)
    assert set(before.cleaned["survives"]) >= {"yes"}


def test_the_command_says_what_survives(logs, listed):
    rows = json.loads(call("audit", str(logs), "--json", "--disputed", str(listed("0\n"))).stdout)
    assert {row["survives"] for row in rows} <= {"yes", "no", "was not borne out"}
    refused = call("audit", str(logs), "--disputed", str(listed("60\n")))
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)


@pytest.mark.skipif(not made_logs.REAL.is_dir(), reason=made_logs.NO_LOGS)
def test_the_released_logs_bear_out_with_a_few_problems_less_what_they_did():
    logs = released.read(made_logs.REAL)
    every, kept = recount.count(logs), cleaned.without(logs, range(0, 1319, 20))
    assert (kept["n"], every["n"]) == (1319 - 66, 1319)
    table = cleaned.survivors(every, kept, FACTS)
    assert list(table["survives"]) == ["yes"] * 5 + ["was not borne out"]
