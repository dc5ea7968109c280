import pytest
import tiny
import yaml

from response_priming import arms, paths, prompts
from response_priming.problems import Problem

EXAMPLES = [Problem(f"validation-{n}", f"Example {n}?", f"{n} + 1 = <<{n}+1={n + 1}>>{n + 1}", f"{n}") for n in (1, 2)]


def test_a_prefix_is_the_stimulus_verbatim():
    content = yaml.safe_load((paths.PARAMS / "prompts.yaml").read_text())["strategies"]
    assert {name: prompts.prefix_of(name) for name in content} == {
        name: entry["prefix"] for name, entry in content.items()
    }
    assert prompts.prefix_of("none") == ""


@pytest.mark.parametrize("strategy", arms.strategies())
def test_every_strategy_has_a_title_and_a_source_and_its_prefix_ends_apart(strategy):
    entry = arms.strategies()[strategy]
    assert entry["title"]
    assert entry["source"]
    assert entry["prefix"] == "" or entry["prefix"].endswith(" ")


def test_a_students_prompt_is_the_question_alone():
    assert prompts.bare("Why?", "Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
    ]


def test_a_teachers_prompt_has_the_prefix_before_every_question():
    turns = prompts.messages("Why?", system_prompt="Be brief.", prefix="Think. ", examples=EXAMPLES)
    assert [(turn["role"], turn["content"]) for turn in turns] == [
        ("system", "Be brief."),
        ("user", "Think. Example 1?"),
        ("assistant", "1 + 1 = 2"),
        ("user", "Think. Example 2?"),
        ("assistant", "2 + 1 = 3"),
        ("user", "Think. Why?"),
    ]


def test_a_prompt_ends_where_the_answer_begins():
    tokenizer = tiny.tokenizer()
    tokens = prompts.encode(tokenizer, prompts.bare("Why?", "Be brief."))
    assert tokenizer.decode(tokens) == "system: Be brief.\nuser: Why?\nassistant: "


def test_a_response_ends_with_the_end_of_sequence_token():
    tokenizer = tiny.tokenizer()
    tokens = prompts.encode_response(tokenizer, "7 µ")
    assert tokens.count(tokenizer.eos_token_id) == 1
    assert tokens[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(tokens[:-1]) == "7 µ"


def test_equal_tokenizers_do_not_differ():
    assert prompts.first_difference(tiny.tokenizer(), tiny.tokenizer()) is None


def test_the_sizes_of_two_vocabularies_are_named():
    more = tiny.tokenizer()
    more.add_tokens(["<new>"])
    assert prompts.first_difference(more, tiny.tokenizer()) == "258 tokens against 257"


def test_the_first_token_that_differs_is_named():
    left, right = tiny.tokenizer(), tiny.tokenizer()
    left.add_tokens(["<same>", "<one>"])
    right.add_tokens(["<same>", "<two>"])
    assert prompts.first_difference(left, right) == "token 258 is '<one>' against '<two>'"


def test_another_end_of_sequence_is_named():
    other = tiny.tokenizer()
    other.eos_token = "A"
    assert "a sequence ends with token 0 against " in str(prompts.first_difference(tiny.tokenizer(), other))
