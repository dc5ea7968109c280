from pathlib import PurePath

import pytest

from response_priming import arms, paths
from response_priming.errors import InputError
from response_priming.params.sections import REPAIRS


def test_only_the_papers_primed_strategies_count_as_primed():
    known = ["undistilled", "fine-tuned", "shuffled", "published-teacher", *arms.strategies()]
    assert [arm for arm in known if arms.is_primed(arm)] == ["teacher", "ground-truth", "confidence"]


def test_every_arm_has_a_title_of_its_own():
    assert arms.title("undistilled") == "Undistilled"
    assert arms.title("teacher") == "KD, Teacher"
    assert arms.title("published-teacher") == "KD, Teacher, as released"
    assert len({arms.title(arm) for arm in arms.known()}) == len(arms.known())


@pytest.mark.parametrize(
    ("arm", "store"),
    [
        ("undistilled", None),
        ("fine-tuned", None),
        ("teacher", "responses/teacher"),
        ("shuffled", "responses/none"),
        ("published-teacher", "responses/teacher"),
    ],
)
def test_an_arm_learns_from_its_strategys_responses_or_in_the_released_way_from_its_prompts(arm, store):
    assert arms.store_of(arm, REPAIRS) == (store and PurePath(store))
    assert arms.store_of(arm, ()) == (store and PurePath(store.replace("responses", "prompt-signals")))


def test_the_baseline_of_a_primed_arm_is_trained_in_the_same_way():
    assert [arms.unprimed(arm) for arm in ("teacher", "published-teacher")] == ["none", "published-none"]


def test_a_caller_cannot_change_the_strategies_for_the_next_one():
    arms.strategies().clear()
    assert "teacher" in arms.strategies()


@pytest.mark.parametrize(
    ("content", "problem"), [("a: [", "not YAML: "), ("- a", "must be a mapping of sections, is a list")]
)
def test_a_file_that_is_no_mapping_is_one_line(tmp_path, monkeypatch, content, problem):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(InputError, match=f"^mine.yaml: {problem}"):
        arms.read_yaml(tmp_path / "mine.yaml")
