from pathlib import PurePath

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


ENTRY = {"title": "KD, Mine", "prefix": "Answer. ", "source": "here"}


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    """Writes params/prompts.yaml with these strategies beside `none`."""
    monkeypatch.setattr(paths, "PARAMS", tmp_path)
    none = {"title": "KD, none", "prefix": "", "source": "here"}

    def write(strategies, encoding="utf-8"):
        content = yaml.safe_dump({"strategies": {"none": none} | strategies}, allow_unicode=True)
        (tmp_path / "prompts.yaml").write_text(content, encoding=encoding)

    return write


@pytest.mark.parametrize("name", ["brief", "7b", "no", "a-b-", 64 * "a"])
def test_a_strategy_may_have_any_name_of_letters_digits_and_dashes(prompts, name):
    prompts({name: ENTRY})
    assert arms.title(name) == "KD, Mine"
    assert {name, f"published-{name}"} <= {*arms.known()}


@pytest.mark.parametrize(
    ("strategies", "problem"),
    [
        ({"mine": {"prefix": "A. ", "source": "x"}}, "strategies.mine.title: is missing"),
        ({"mine": {"title": "A", "source": "x"}}, "strategies.mine.prefix: is missing"),
        ({"mine": ENTRY | {"prefix": 42}}, "strategies.mine.prefix = 42: input should be a valid string"),
        ({"mine": ENTRY | {"title": " "}}, "strategies.mine.title = ' ': string should match pattern"),
        ({"mine": ENTRY | {"title": "a\nb"}}, "strategies.mine.title = 'a\\nb': string should match pattern"),
        ({"mine": ENTRY | {"source": None}}, "strategies.mine.source = None: input should be a valid string"),
        ({"mine": ENTRY | {"control": "yes"}}, "strategies.mine.control = 'yes': input should be a valid boolean"),
        ({"mine": ENTRY | {"prefx": "A"}}, "strategies.mine.prefx = 'A': unknown key; allowed: title, prefix, source"),
        ({"mine": None}, "strategies.mine = None: input should be a valid dictionary"),
        ({"two words": ENTRY}, "strategies.two words: 'two words' is no name; allowed: up to 64 of a-z, 0-9 and -"),
        ({"../../x": ENTRY}, "strategies.../../x: '../../x' is no name"),
        (
            {"shuffled": ENTRY},
            "strategies.shuffled: 'shuffled' is reserved, as are undistilled, undistilled-ex",
        ),
        ({"published-mine": ENTRY}, "strategies.published-mine: 'published-mine' is reserved, "),
        ({7: ENTRY}, "strategies.7 = 7: input should be a valid string"),
        ({"none": ENTRY}, "strategies.none: must be there, with an empty prefix"),
    ],
)
def test_a_strategy_that_cannot_be_is_refused_when_it_is_read(prompts, strategies, problem):
    prompts(strategies)
    for ask in (arms.strategies, arms.known, lambda: arms.title("mine")):
        with pytest.raises(InputError, match=r"^[^ ]*prompts\.yaml: ") as refused:
            ask()
        assert str(refused.value).partition("prompts.yaml: ")[2].startswith(problem)
        assert len(str(refused.value).splitlines()) == 1


def test_strategies_in_another_encoding_are_one_line(prompts):
    prompts({"mine": ENTRY | {"title": "KD, é"}}, encoding="latin-1")
    with pytest.raises(InputError, match=r"prompts\.yaml: must be UTF-8, is not: "):
        arms.strategies()


@pytest.mark.parametrize(
    ("content", "problem"), [("a: [", "not YAML: "), ("- a", "must be a mapping of sections, is a list")]
)
def test_a_file_that_is_no_mapping_is_one_line(tmp_path, monkeypatch, content, problem):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(InputError, match=f"^mine.yaml: {problem}"):
        arms.read_yaml(tmp_path / "mine.yaml")


NOTATION = "ab:-[]{}'\"\n\t &*!|>%@01.#,?~<="
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
NAMES = st.sampled_from(["strategies", "none", "mine", "title", "prefix", "source", "control", "shuffled"]) | SCALARS
ENTRIES = st.fixed_dictionaries({}, optional=dict.fromkeys([*ENTRY, "control"], SCALARS))
TREES = st.recursive(SCALARS | ENTRIES, lambda some: st.dictionaries(NAMES, some, max_size=4), max_leaves=6)
FILES = st.one_of(
    st.binary(max_size=40),
    st.text(NOTATION, max_size=60).map(str.encode),
    st.dictionaries(NAMES, TREES, max_size=3).map(yaml.safe_dump).map(str.encode),
    st.dictionaries(NAMES, ENTRIES | st.just(ENTRY), max_size=3).map(
        lambda mine: yaml.safe_dump({"strategies": {"none": ENTRY | {"prefix": ""}} | mine}).encode()
    ),
)


@given(FILES)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_prompts_are_strategies_or_refused_in_one_line(prompts, content):
    prompts({})
    (paths.PARAMS / "prompts.yaml").write_bytes(content)
    arms._strategies.cache_clear()
    try:
        found = {name: arms.title(name) + one["prefix"] for name, one in arms.strategies().items()}
    except InputError as error:
        found = str(error)
    arms._strategies.cache_clear()
    assert isinstance(found, dict) or len(found.splitlines()) == 1
