"""From a problem to a prompt: the strategy's prefix, worked examples for the teacher, and the model's chat template."""

import contextlib
import functools
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import jinja2

from response_priming import arms, params
from response_priming.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from response_priming.problems import Problem

TODAY = params.Model().prompt_date


def prefix_of(strategy: str) -> str:
    """The priming prefix, verbatim from params/prompts.yaml."""
    return arms.strategies()[strategy]["prefix"]


def bare(question: str, system_prompt: str) -> list[dict[str, str]]:
    """Chat messages of a student's prompt, in training and in evaluation: the question and nothing else."""
    return messages(question, system_prompt=system_prompt)


def messages(
    question: str, *, system_prompt: str, prefix: str = "", examples: "Sequence[Problem]" = ()
) -> list[dict[str, str]]:
    """Chat messages of a teacher's prompt: worked examples first, then the question under the strategy's prefix.

    The prefix goes before the examples' questions too, so that they show answers given under it.
    """
    turns = [{"role": "system", "content": system_prompt}]
    for example in examples:
        turns.append({"role": "user", "content": prefix + example.question})
        turns.append({"role": "assistant", "content": example.worked})
    return [*turns, {"role": "user", "content": prefix + question}]


def _template(tokenizer: "PreTrainedTokenizerBase", date: str) -> functools.partial[Any]:
    """Writes a chat as the model's template does on a day."""
    today = datetime.fromisoformat(date)
    days: dict[str, Any] = {"date_string": today.strftime("%d %b %Y"), "strftime_now": today.strftime}
    return functools.partial(tokenizer.apply_chat_template, tokenize=False, **days)


def render(tokenizer: "PreTrainedTokenizerBase", chat: list[dict[str, str]], date: str = TODAY) -> str:
    """The prompt in the model's chat template, up to and including the marker that opens the assistant's turn.

    A template without a system role, such as Gemma's, has the system prompt at the head of the first user's turn.

    Args:
        chat: as `messages` gives it.
        date: what a dated template, such as that of Llama 3.2, takes for today; year-month-day.

    Raises:
        InputError: there is no template, or it takes no such chat.
    """
    written = functools.partial(_template(tokenizer, date), add_generation_prompt=True)
    (system, first), rest = (turn["content"] for turn in chat[:2]), chat[2:]
    try:
        with contextlib.suppress(jinja2.TemplateError):
            if system.strip() in (text := str(written(chat))):
                return text
        joined = "\n\n".join(filter(None, [system, first]))
        return str(written([{"role": "user", "content": joined}, *rest]))
    except (jinja2.TemplateError, ValueError) as error:
        reason = "there is none; it takes a model that was taught to chat" if tokenizer.chat_template is None else error
        raise InputError(f"model {tokenizer.name_or_path!r}: chat template: {reason}") from None


def encode(tokenizer: "PreTrainedTokenizerBase", chat: list[dict[str, str]], date: str = TODAY) -> list[int]:
    """Token ids of the prompt (see `render`)."""
    return encode_plain(tokenizer, render(tokenizer, chat, date))


def encode_plain(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of a text alone, without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_response(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of a response, with the one that closes it: the chat template's, or else the end-of-sequence token."""
    closing = end_of_turn(tokenizer)
    return [*encode_plain(tokenizer, text), int(tokenizer.eos_token_id) if closing is None else closing]


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token that the chat template closes an assistant's turn with, as `<|eot_id|>`; None where it takes none."""
    said, chat = "Seven.", [{"role": "user", "content": "3 + 4?"}, {"role": "assistant", "content": "Seven."}]
    try:
        after = str(_template(tokenizer, TODAY)(chat)).rpartition(said)[2]
    except (jinja2.TemplateError, ValueError):
        return None
    first = next(iter(encode_plain(tokenizer, after.strip())), None)
    # Other text may follow a turn as well: a line break, the name of the next speaker.
    return first if first in tokenizer.added_tokens_decoder else None


def first_difference(teacher: "PreTrainedTokenizerBase", student: "PreTrainedTokenizerBase") -> str | None:
    """The first respect in which two tokenizers' ids do not mean the same, in words; None where there is none."""
    if len(teacher) != len(student):
        return f"{len(teacher)} tokens against {len(student)}"
    ids = list(range(len(teacher)))
    pairs = zip(teacher.convert_ids_to_tokens(ids), student.convert_ids_to_tokens(ids), strict=True)
    for token_id, (left, right) in enumerate(pairs):
        if left != right:
            return f"token {token_id} is {left!r} against {right!r}"
    if teacher.eos_token_id != student.eos_token_id:
        return f"a sequence ends with token {teacher.eos_token_id} against {student.eos_token_id}"
    return None
