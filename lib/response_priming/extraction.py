r"""Extraction rules: from a response to the number it gives as its answer, and whether that number is right.

A response may look like `3 + 4 = <<3+4=7>>7\n#### 7`, or go on with a problem of its own after the answer, or be cut
off in the middle. So the rules differ in where they look, and an arm's accuracy depends on the rule: every arm is
scored by each of them. A rule sees responses alone, never the right answers. It takes all responses of an arm in the
order of its problems, because one rule, `published`, carries something over from row to row; all others are functions
of one response. None of them calculates: of `3/4` they give a number in it; only `math-verify` reads the fraction.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

# What a number is, `number` says; here is how it is found in a text.
_SIGN = r"[-+\u2212\u2013]"
_SYMBOL = r"$\u20ac\u00a3\u00a5\u20b9"
_CURRENCY = rf"\\?[{_SYMBOL}]"
_SEPARATOR = r",(?:\\!)?|(?:\\[a-z]+)?\{,\}|\\[,!;: ]|['_\u2019\u00a0\u2007\u2009\u202f]"
_SPACED = (
    r"(?<!\w)(?<!\d[.,:/])(?:"
    r"\A(?=[\d ]+\Z)"  # there is no other text
    rf"|(?<=[{_SYMBOL}\#])|(?<=[{_SYMBOL}\#][ ])"
    r"|(?=\d{1,3}(?:[ ]\d{3}){0,3}[ ]0\d\d)"  # a group begins with 0
    r"|(?<!\d[ ])(?=\d\d?(?:[ ]\d{3}){1,2}(?![ ]?(?:[\d+/=\u00d7]|\*(?!\*)|-[ ]?\d)))"
    r")[1-9]\d{0,2}(?:[ ]\d{3}){1,4}(?![ ]?\d|,\d|-?[^\W\d])"
)
_NUMBER = re.compile(
    rf"(?P<sign>{_SIGN})?(?:{_CURRENCY}[ ]?(?P<late>{_SIGN})?)?(?P<digits>(?:"
    rf"\d{{1,3}}(?P<separator>{_SEPARATOR})\d{{3}}(?:(?P=separator)\d{{3}})*(?!\d)|{_SPACED}"
    r"|\d+)(?:\.\d+)?|(?<!\w)\.\d+)(?P<exponent>[eE][-+\u2212]?\d{1,3}(?!\w))?"
)
_BEFORE_SPACE = re.compile(rf"[\d\\]|{_CURRENCY}")  # what a number may have before a space within it
_HASH = re.compile(rf"####\s*(?:\*\*)?{_NUMBER.pattern}")
# A right answer and its unit; `5 million` is not 5, nor is `2 and a half` 2, and a single letter may be a variable.
_WITH_UNIT = re.compile(
    r"(?s)(?>(.*\d))[\s%*]*(?!(?i:.*\b(?:and|or|to|half|dozen|hundred|thousand|lakh|crore|[mb]n|mio|[a-z]+illion)s?\b))"
    r"[^\W\d_]{2,}(?:[\s/.-]+[^\W\d_]+)*[\s.*]*"
)
# Some responses lose the backslash, or a log stores `\b` as the control character it stands for.
_BOX = re.compile(r"[b\x08]oxed\{")
_BOXED_NUMBER = re.compile(r"[b\x08]oxed\{\s*\\?\$?-?\d")


@dataclass(frozen=True)
class Rule:
    """`extract`: what each response gives as its answer, None where it finds nothing. `same`: whether that (first
    argument) is the right answer, as `right_answer` writes it (second argument)."""

    extract: Callable[[Sequence[str]], list[str | None]]
    same: Callable[[str, str], bool]

    def verdicts(self, responses: Sequence[str], answers: Sequence[str]) -> list[tuple[str | None, bool]]:
        """(extracted, right) of each response."""
        found = self.extract(responses)
        return [(one, one is not None and self.same(one, right)) for one, right in zip(found, answers, strict=True)]


# --- rules of one response ---


def hash_mark(response: str) -> str | None:
    """The number right after the first `####` that has one, the form of GSM8K's solutions (Cobbe et al. 2021, arXiv
    2110.14168). The first, because a response that runs on goes on to other problems."""
    found = _HASH.search(response)
    return _plain(found) if found else None


def boxed_first(response: str) -> str | None:
    r"""The number in the first `\boxed{}`, else the last number.

    One automatic rule close to the one that the released code of Goyal et al. 2024 (arXiv 2412.17846) tries first; its
    other steps and its entries by hand are left out. A box may hold an equation or words, so its last number counts.
    """
    box = _BOX.search(response)
    return (last_number(_content(response[box.end() :])) if box else None) or last_number(response)


def boxed_last(response: str) -> str | None:
    r"""The number in the last `\boxed{}`, else the last number: of MATH's reference solutions (Hendrycks et al. 2021,
    arXiv 2103.03874) and most evaluations with boxed answers. Of nested boxes, the inner one."""
    *_, box = [None, *_BOX.finditer(response)]
    return (last_number(_content(response[box.end() :])) if box else None) or last_number(response)


def last_number(response: str) -> str | None:
    """The last number anywhere, as in zero-shot chain-of-thought evaluations (Kojima et al. 2022, arXiv 2205.11916)."""
    # From the last word on, with those before it that a number may begin in: quicker than reading all of them.
    space = end = len(response)
    while space >= 0:
        space = response.rfind(" ", 0, space)
        if space < 1 or not _BEFORE_SPACE.match(response, space - 1):
            found = list(_NUMBER.finditer(response, space + 1, end))
            if found:
                return _plain(found[-1])
            end = space
    return None


def boxed_number(response: str) -> bool:
    r"""Whether some `\boxed{}` opens with a number (a digit, perhaps after white space, a dollar or a minus sign)."""
    return _BOXED_NUMBER.search(response) is not None


# --- the released cascade ---

# Goyal et al. 2024, released code at commit b869e93, assessment/assess.ipynb. Its numbers have no sign, and a comma
# alone passes for one, which then cannot be read: such rows were left to a person.
_RELEASED_NUMBER = re.compile(r"[,\d]+\.?[,\d]*")
_RELEASED_BOX = re.compile(r"oxed\{ *([,\d]+\.?[,\d]*) *\}")
_RELEASED_PHRASE = re.compile(r"the ?(?:final|correct)* ?answer ?is")


def published(responses: Sequence[str]) -> list[str | None]:
    r"""The released cascade of Goyal et al. 2024 (arXiv 2412.17846), its slip included, without its entries by hand.

    The number in the first `\boxed{}` that holds nothing but an unsigned number; else the first line's number if all
    its numbers are written alike; else, where the response says "the [final/correct] answer is", the *first number of
    the last earlier row that came to the last step*, left over in a variable; else the last number. None where the
    variable is not set yet, or where the number taken is a mere comma. The caller removes the prompt and strips.

    Checked on the five released logs that carry its results: it gives 6,041 of the 6,043 numbers that no person typed.
    """
    return _cascade(responses, slip=True)


def published_corrected(responses: Sequence[str]) -> list[str | None]:
    """`published` as it was meant: the third step takes the first number after the phrase, of the same response."""
    return _cascade(responses, slip=False)


def _cascade(responses: Sequence[str], *, slip: bool) -> list[str | None]:
    found, left_over = [], ""
    for response in responses:
        box = _RELEASED_BOX.search(response)
        first_line = _RELEASED_NUMBER.findall(response.partition("\n")[0])
        phrase = _RELEASED_PHRASE.search(response)
        after = _RELEASED_NUMBER.search(response, phrase.start()) if phrase else None
        if box:
            number = box[1]
        elif len(set(first_line)) == 1:
            number = first_line[0]
        elif after:
            number = left_over if slip else after[0]
        else:
            numbers = _RELEASED_NUMBER.findall(response)
            number, left_over = (numbers[-1], numbers[0]) if numbers else ("", "")
        number = number.replace(",", "")
        found.append(number or None)
    return found


# --- other libraries' rules ---

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
# `(-?[$0-9.,]{2,})|(-?[0-9]+)`, mirrored: its first match in the mirrored text is the last one in the text.
_FLEXIBLE_MIRRORED = re.compile(r"[$0-9.,]{2,}-?|[0-9]-?")
_IGNORED = re.compile(r"[,$]")
_DECIMAL = re.compile(r"-?\d+(?:\.\d+)?")
_MOST_FRACTIONS = 20


def lm_eval_strict(response: str) -> str | None:
    """`strict-match` of lm-evaluation-harness 0.4.13, lm_eval/tasks/gsm8k/gsm8k.yaml (version 3.0): what follows the
    first `#### `, of digits, full stops and commas."""
    found = _STRICT.search(response)
    return found[1] if found else None


def lm_eval_flexible(response: str) -> str | None:
    """`flexible-extract` of the same task: the last run of two or more of digits, `$`, `.` and `,`, or of one digit."""
    found = _FLEXIBLE_MIRRORED.search(response[::-1])
    return found[0][::-1] if found else None


def same_text(extracted: str, answer: str) -> bool:
    """The harness's `exact_match` with that task's `regexes_to_ignore`: equal texts but for commas, dollars and one
    full stop at the end, so `18.0` is not `18`."""
    return _ignoring(extracted) == _ignoring(answer)


def _ignoring(text: str) -> str:
    return re.sub(r"\.$", "", _IGNORED.sub("", text)).lower()


def math_verify(response: str) -> str | None:
    """What the library math-verify 0.9 (Kydlíček, Hugging Face) parses as the answer, with its default settings.

    Its time limit is a signal, so this runs in a process's main thread alone and raises ValueError in any other.
    """
    from math_verify import parse  # takes a second and a half, so not before it is needed

    parsed = parse(response)
    return str(parsed[-1]) if parsed else None


def same_value(extracted: str, answer: str) -> bool:
    """Whether math-verify finds both equal: `18 %`, `36/2` and `18.0` are 18.

    Two cases are decided here, as the library decides them on all the released logs, only quicker: a plain number, and
    a run of fractions that goes on and on (`1/2 3/4 1/2 ...`), which its comparison gives up after five seconds.
    """
    if _DECIMAL.fullmatch(extracted):
        return same_number(extracted, answer)
    if extracted.count("/") > _MOST_FRACTIONS:
        return False
    from math_verify import verify

    return bool(verify(_parsed(answer), _parsed(f"${extracted}$")))


@functools.lru_cache(10_000)
def _parsed(number: str) -> list[Any]:
    from math_verify import parse

    return list(parse(number))


# --- numbers ---


def number(text: str) -> Decimal | None:
    r"""The number that a text consists of; None where it is none. What a number is, for all but other people's rules:

    - digits of any script, with decimals after a full stop: `18`, `18.50`, `.5`, `18.`; an exponent of up to three
      digits, `1.2e6`, `1E-05`;
    - a sign right before it, `+` or `-`, U+2212 or an en dash, before or after a currency: `-$5`, `$-5`;
    - a currency `$`, euro, pound, yen or rupee, before it or after it, LaTeX's `\$` too; bold stars; a per cent sign;
    - thousands in groups of three digits, one kind of separator a number: comma, apostrophe, underscore, no-break,
      figure, thin or narrow space, LaTeX's `{,}`, `\text{,}`, `,\!`, `\,`, `\!`, `\;`, `\:` and `\ `. In other groups
      they separate numbers: `1,2` and `3,5` are two each, and a full stop never groups.
    - One plain space groups, too, where it can hardly separate: after a currency or a `#` (`$350 000`), or where there
      is no other text; where a group begins with 0 (`467 000`); else after one or two digits (`1 500`, `12 345.60`),
      unless a number stands before or an operator behind. No letter, hyphen or other number may touch the groups: in
      `2024 300`, `160 160`, `5 10 100`, `= 12 216 * 5`, `5 100-dollar` and `3 500ml` every part is a number by itself.
    """
    found = _NUMBER.fullmatch(text.strip().lstrip("*").rstrip("%.\\ *$\u20ac\u00a3\u00a5\u20b9"))
    return Decimal(_plain(found)) if found else None


def right_answer(text: str) -> str | None:
    """The right answer as rules compare it: the number after the last `####`, or that a text without one consists of.

    Without separators, signs but a minus, exponents and units (words after it, as in `3 pens`), and as GSM8K writes
    whole numbers, without decimals: `3.0` is 3. None where it is no number (see `number`), as `3,5` and `5 million`.
    """
    last = text.rpartition("####")[2]
    found = _WITH_UNIT.fullmatch(last)
    value = number(found[1] if found else last)
    whole, _, decimals = f"{value:zf}".partition(".") if value is not None else ("", "", "")
    return f"{whole}.{decimals}" if decimals.strip("0") else whole or None


def same_number(extracted: str, answer: str) -> bool:
    """Whether both are numbers, and equal: `18`, `18.0`, `$18`, `18.` and `18 %` are; other text never is."""
    left = number(extracted)
    return left is not None and left == number(answer)


def _plain(found: re.Match[str]) -> str:
    """As `Decimal` reads it: without currency and separators, with an ASCII minus."""
    minus = "-" if {found["sign"], found["late"]} - {None, "+"} else ""
    return minus + re.sub(r"[^\d.]", "", found["digits"]) + (found["exponent"] or "").replace("\u2212", "-")


def _content(rest: str) -> str:
    """What a box holds whose opening brace `rest` follows, nested braces included; all where it is cut off."""
    depth = 1
    for brace in re.finditer(r"[{}]", rest):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return rest[: brace.start()]
    return rest


def _each(extract: Callable[[str], str | None]) -> Callable[[Sequence[str]], list[str | None]]:
    return lambda responses: [extract(response) for response in responses]


RULES: dict[str, Rule] = {
    "hash": Rule(_each(hash_mark), same_number),
    "boxed-first": Rule(_each(boxed_first), same_number),
    "boxed-last": Rule(_each(boxed_last), same_number),
    "last-number": Rule(_each(last_number), same_number),
    "published": Rule(published, same_number),
    "published-corrected": Rule(published_corrected, same_number),
    "lm-eval-strict": Rule(_each(lm_eval_strict), same_text),
    "lm-eval-flexible": Rule(_each(lm_eval_flexible), same_text),
    "math-verify": Rule(_each(math_verify), same_value),
}
