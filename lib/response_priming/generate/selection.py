"""Which of a teacher's responses train: optional filters and a vote, off by default. The store keeps every response."""

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal

import pandas as pd

from response_priming.extraction import RULES
from response_priming.params import sections


def select(answered: pd.DataFrame, right: Mapping[str, str], run: sections.Generate) -> pd.DataFrame:
    """One row a response: `problem_id`, `sample`, `finished`, `answer` (what the rule extracts), `right`, `kept`.

    The filters go first. Of what they leave, the vote keeps one response a problem where there are several samples:
    without a filter this is self-consistency (Wang et al. 2022, arXiv 2203.11171), with `keep_right` the first right
    response.

    Args:
        answered: `problem_id`, `sample`, `finished` and `text` of every response, a problem's samples in their order.
        right: the right answer by problem id.
    """
    answers = [right[name] for name in answered["problem_id"]]
    verdicts = RULES[run.answer_rule].verdicts(list(answered["text"]), answers)
    table = answered[["problem_id", "sample", "finished"]].assign(
        answer=pd.Series([extracted for extracted, _ in verdicts], answered.index, "str"),
        right=[is_right for _, is_right in verdicts],
    )
    table["kept"] = (table["finished"] | (not run.keep_finished)) & (table["right"] | (not run.keep_right))
    if run.samples > 1:
        left = table[table["kept"]]
        winners = [rows.index[majority(rows["answer"].tolist())] for _, rows in left.groupby("problem_id")]
        table["kept"] = table.index.isin(winners)
    return table


def majority(answers: Sequence[object]) -> int:
    """Position of the first answer that equals the most frequent one; of equally frequent ones the earliest counts.

    Missing answers do not vote; where all are missing, the first position is it.
    """
    votes = [Decimal(answer) if isinstance(answer, str) else None for answer in answers]
    counted = Counter(vote for vote in votes if vote is not None).most_common(1)
    return votes.index(counted[0][0]) if counted else 0


def counts(selected: pd.DataFrame) -> dict[str, int]:
    """Numbers of `select`'s rows for the manifest and the notebook."""
    return {
        "problems": selected["problem_id"].nunique(),
        "responses": len(selected),
        "finished": int(selected["finished"].sum()),
        "right": int(selected["right"].sum()),
        "kept": int(selected["kept"].sum()),
        "dropped": int((~selected["kept"]).sum()),
    }
