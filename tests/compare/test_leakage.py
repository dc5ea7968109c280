import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.test_problems import GSM8K

from response_priming.compare import leakage

WORDS = ["cat", "dog", "has", "sells", "green", "apples", "how", "many", "are", "there", "now", "in", "all"]
texts = st.lists(
    st.lists(st.one_of(st.sampled_from(WORDS[:5]), st.integers(0, 20).map(str)), min_size=1, max_size=8).map(" ".join),
    max_size=12,
)
STORY = "A shop has 12 pens in a red box and 1,300 pens in a blue box. How many pens are there in the boxes?"


def likes(changed, others=()):
    return [overlap.kind for overlap in leakage.overlaps([STORY], [*others, changed])]


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        (STORY.upper().replace(".", " !").replace(" ", "  "), "exact"),
        (STORY.replace("12", "7").replace("1,300", "2.5"), "numbers"),
        (STORY.replace("shop", "bakery"), "near"),
        (STORY.replace("12", "7").replace("shop", "bakery"), "near"),
        ("A train has 12 cars. How long is it, if a car has 20 m?", None),
        ("", None),
    ],
)
def test_a_copy_is_found_by_how_close_it_is(changed, kind):
    assert likes(changed, ["Mia has 3 cats.", ""]) == [kind] * (kind is not None)


def test_the_closest_of_several_counts_once():
    others = [STORY.replace("shop", "bakery"), STORY.replace("12", "13"), STORY, STORY]
    assert leakage.overlaps(["Who?", STORY], others) == [leakage.Overlap(1, 2, "exact", 1.0)]


@given(test=texts, others=texts)
@settings(max_examples=200, deadline=None)
def test_none_is_missed_by_comparing_the_rarest_alone(test, others):
    def most(text):
        grams, *told = (leakage.trigrams(leakage.masked(one)) for one in (text, *others))
        shared = [len(grams & other) / len(grams | other) for other in told]
        return max((one for one in shared if one >= leakage.THRESHOLD), default=None)

    wanted = {number: most(text) for number, text in enumerate(test) if most(text) is not None}
    assert {found.test: found.similarity for found in leakage.overlaps(test, others)} == wanted


@pytest.mark.skipif(not (GSM8K / "test.jsonl").exists(), reason="GSM8K is not here; GSM8K_DIR may say where it is")
def test_gsm8k_has_no_copies_and_four_near_ones():
    train, test = (
        [json.loads(line)["question"] for line in (GSM8K / f"{name}.jsonl").open()] for name in ("train", "test")
    )
    found = leakage.overlaps(test, train)
    assert [(overlap.test, overlap.kind) for overlap in found] == [(n, "near") for n in (602, 632, 824, 974)]
