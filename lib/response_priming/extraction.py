r"""Extraction rules: from a response to the number it gives as its answer, and whether that number is right.

A response may look like `3 + 4 = <<3+4=7>>7\n#### 7`, or go on with a problem of its own after the answer, or be cut
off in the middle. So the rules differ in where they look, and an arm's accuracy depends on the rule: every arm is
scored by each of them. A rule sees the response alone, never the right answer.
"""

import re
from collections.abc import Callable
from decimal import Decimal

# `-` is a sign where nothing before it could be subtracted from: in `= -3` and `is -3`, but not in `5-3` or `5 -3`.
# A comma belongs to a number where it groups thousands: `1,234` is one number, `1,2` are two.
# A full stop needs a digit after it: the number in `It is 18.` is 18. A leading one needs no word before it: `.5`.
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)\]}%.])(?<![\d)]\s)[-\u2212\u2013])?"
    r"(?:\\?[$\u20ac\u00a3\u00a5\u20b9])?"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\w)\.\d+)"
)
_HASH = re.compile(rf"####\s*{_NUMBER.pattern}")
_BOX = "boxed{"  # some responses lose the backslash


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
    content = _first_box(response)
    return (last_number(content) if content else None) or last_number(response)


def last_number(response: str) -> str | None:
    """The last number anywhere, as in zero-shot chain-of-thought evaluations (Kojima et al. 2022, arXiv 2205.11916) and
    lm-evaluation-harness's `flexible-extract` filter of GSM8K."""
    found = list(_NUMBER.finditer(response))
    return _plain(found[-1]) if found else None


RULES: dict[str, Callable[[str], str | None]] = {
    "hash": hash_mark,
    "boxed-first": boxed_first,
    "last-number": last_number,
}


def same_number(extracted: str | None, answer: str) -> bool:
    """Whether both are numbers, and equal: `18`, `18.0`, `$18`, `18.` and `18 %` are; other text never is."""
    left, right = _decimal(extracted or ""), _decimal(answer)
    return left is not None and left == right


def _decimal(text: str) -> Decimal | None:
    found = _NUMBER.fullmatch(text.strip().rstrip("%.\\ "))
    return Decimal(_plain(found)) if found else None


def _plain(number: re.Match[str]) -> str:
    """Without currency and thousands separators, with an ASCII minus."""
    return ("-" if number["sign"] else "") + number["digits"].replace(",", "")


def _first_box(response: str) -> str | None:
    r"""What the first `\boxed{}` holds, nested braces included; to the end of the response where it is cut off."""
    _, box, rest = response.partition(_BOX)
    depth = 1
    for position, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            rest = rest[:position]
            break
    # LaTeX may guard a thousands separator from spacing: 1{,}234 or 1,\!234.
    return rest.replace("{,}", ",").replace("\\!", "") if box else None
