"""Our verdicts against those of lm-evaluation-harness on the same texts, problem by problem (`make test-harness`)."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from response_priming import paths
from response_priming.extraction import RULES, right_answer

FILE = Path(os.environ.get("HARNESS_OUTPUT", paths.BUILD / "harness" / "verdicts.jsonl"))
FILTERS = {"lm-eval-strict": "strict-match", "lm-eval-flexible": "flexible-extract"}
NOTHING = "[invalid]"  # what the harness's filters give where they find nothing


@pytest.fixture(scope="module")
def theirs():
    if not FILE.exists():
        pytest.skip("the harness's verdicts are not here; `make test-harness` makes them")
    return pd.DataFrame(map(json.loads, FILE.read_text(encoding="utf-8").splitlines()))


def ours(theirs, rule):
    answers = [right_answer(answer) for answer in theirs["answer"]]
    return RULES[rule].verdicts(list(theirs["text"]), answers)


@pytest.mark.parametrize("rule", FILTERS)
def test_every_text_is_read_alike(theirs, rule):
    found = [extracted or NOTHING for extracted, _ in ours(theirs, rule)]
    assert theirs.loc[theirs[FILTERS[rule]] != found].empty


@pytest.mark.parametrize("rule", FILTERS)
def test_every_verdict_is_the_same(theirs, rule):
    found = [right for _, right in ours(theirs, rule)]
    assert theirs.loc[theirs[f"{FILTERS[rule]}-correct"] != found].empty


def test_texts_are_many_and_both_right_and_wrong(theirs):
    counts = theirs.groupby("source").size()
    assert counts["generated"] >= 8
    assert counts["solutions"] > 5000
    for name in FILTERS.values():
        assert set(theirs[f"{name}-correct"]) == {True, False}
