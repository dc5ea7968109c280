import datetime

import pytest
import tiny
import yaml

from response_priming import arms, paths, prompts
from response_priming.errors import InputError
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


DATED = "{{ strftime_now('%Y-%m-%d') }} {{ date_string }} " + tiny.CHAT_TEMPLATE
LLAMA = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
DROPS_SYSTEM = "{% for turn in messages if turn.role != 'system' %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"


def written(template, chat, *date):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    return tokenizer.decode(prompts.encode(tokenizer, chat, *date))


@pytest.mark.parametrize(
    ("template", "start"), [(DATED, "2025-03-01 01 Mar 2025 "), (LLAMA + tiny.CHAT_TEMPLATE, "01 Mar 2025")]
)
def test_a_dated_template_takes_the_date_that_it_is_given_for_today(template, start):
    assert written(template, prompts.bare("Why?", "Be brief."), "2025-03-01").startswith(f"{start}system: ")


def test_a_dated_prompt_is_the_same_on_every_day(monkeypatch):
    chat = prompts.bare("Why?", "Be brief.")
    before = written(DATED, chat)

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, *_):
            return cls(2031, 1, 1)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    assert written(DATED, chat) == before
    assert written("{{ strftime_now('%Y') }}", chat) == "2024"


@pytest.mark.parametrize("template", [NO_SYSTEM + tiny.CHAT_TEMPLATE, DROPS_SYSTEM + "assistant: "])
def test_without_a_system_role_the_system_prompt_comes_before_the_first_question(template):
    assert written(template, prompts.bare("Why?", "Be brief.")) == "user: Be brief.\n\nWhy?\nassistant: "
    turns = written(template, prompts.messages("Why?", system_prompt="Be brief.", examples=EXAMPLES[:1]))
    assert turns == "user: Be brief.\n\nExample 1?\nassistant: 1 + 1 = 2\nuser: Why?\nassistant: "


def test_an_empty_system_prompt_adds_nothing():
    assert written(NO_SYSTEM + tiny.CHAT_TEMPLATE, prompts.bare("Why?", "")) == "user: Why?\nassistant: "


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (None, "chat template: there is none; it takes a model that was taught to chat"),
        ("{{ raise_exception('no roles at all') }}", "chat template: no roles at all"),
        ("{% for turn in messages", "chat template: unexpected "),
    ],
)
def test_a_template_that_takes_no_prompt_is_one_line(template, problem):
    with pytest.raises(InputError, match=f"^model '.*': {problem}"):
        written(template, prompts.bare("Why?", "Be brief."))


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
