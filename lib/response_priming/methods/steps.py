r"""Steps (step consistency): is every `a op b = c` that a response writes down right?

A step is a calculation, `=` and a result: `3 + 4 = 7`, `2 x 3.50 = $7`, `(1+2)*3 = 9`,
`1,200 / 4 = 300`, `20% * 50 = 10`, and so on with words as units (`3 apples + 4 apples = 7 apples`). A chain
`2 + 3 = 1 + 4 = 5` is a step for each `=`. A calculator mark `<<3+4=7>>` belongs to the step it stands in, which is
then right if both are; elsewhere it is a step of its own. A written result with decimals may be rounded to them; any
other result must be exact. What is not arithmetic in numbers (`2x + 3 = 7`, `x + 3 = 7`) is no step.
"""

import ast
import bisect
import itertools
import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

# Notations of one meaning; `x` multiplies between numbers only.
_SAME = (
    (re.compile(r"\\[,;!$() \[\]]|\{,\}"), ""),
    (re.compile(r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}"), r"(\1)/(\2)"),
    (re.compile(r"\\times|\\cdot|[\u00d7\u00b7\u2217]|(?<=[\d)%])\s*[xX](?=\s*[$€£¥]?[\d(.])"), "*"),
    (re.compile(r"\\div|÷"), "/"),
    (re.compile(r"[\u2212\u2013]"), "-"),
    (re.compile(r"[$€£¥₹]"), ""),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\*\*"), " "),  # bold type
)
_MARK = re.compile(r"<<([^<>\n]*)>>")
_NUMBER = r"(?:\d+(?:\.\d+)?|(?<![\d\w])\.\d+)%?"
_UNIT = r"(?:[A-Za-z]{2,})?(?:[ \t]+(?!x\b|X\b)[A-Za-z]+){0,2}"
# Possessive, because no shorter match goes on where a longer one does not; and what is no equation is consumed like
# one, because none begins inside it. So every character is read a few times at most.
_TERM = rf"(?>(?:\([ \t]*)*+(?:<<[^<>\n]*>>)?-?{_NUMBER}(?:[ \t]*\))*{_UNIT}(?:[ \t]*\))*)"
_SIDE = rf"{_TERM}(?:[ \t]*[-+*/][ \t]*{_TERM})*+"
_EQUATION = re.compile(rf"{_SIDE}(?:[ \t]*=[ \t]*(?:<<[^<>\n]*>>)?[ \t]*{_SIDE})*+|(?:\([ \t]*)++|{_MARK.pattern}")

# An operand beside an equation that is no number, or the half of one: `x + 3 = 7`, `7:50 + 30 = 8:20`, `3 = 2x`. A
# bullet or a number that opens a line is neither.
_CUT_BEFORE = re.compile(r"(?:[\w)%][ \t]*[-+*/^]|\^)[ \t]*\Z|[\w.]\Z|\d:\Z")
_CUT_AFTER = re.compile(r"[\w^]|\.\d|:\d|[ \t]*[-+*/^][ \t]*\w")
_WORDS = re.compile(r"[A-Za-z]+|[ \t]")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)%")
_END = re.compile(r"\n\s*|(?<=[.!?])\s+")  # of a line or a sentence
_LONGEST = 200  # characters of one equation; longer ones are no step that a person would write

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def check(response: str) -> list[bool]:
    """Whether each step of the response is right, in order; empty where it has none; in time linear in its length."""
    text = _normal(response)
    found: list[bool] = []
    last = 0  # character of the match before: what cuts an equation off stands behind it
    for match in _EQUATION.finditer(text):
        marks = [_verdicts(mark) for mark in _MARK.findall(match[0])]
        sides = _verdicts(_MARK.sub("", match[0]))
        if sides and not _CUT_BEFORE.search(text, last, match.start()) and not _CUT_AFTER.match(text, match.end()):
            found += [side and all(map(all, marks)) for side in sides]
        else:
            found += itertools.chain.from_iterable(marks)
        last = match.end() - 1
    return found


def _normal(text: str) -> str:
    for pattern, plain in _SAME:
        text = pattern.sub(plain, text)
    return text


def _verdicts(equation: str) -> list[bool]:
    """A verdict for each `=` that a calculation stands before and that can be computed."""
    if "=" not in equation or len(equation) > _LONGEST:
        return []
    sides = [_WORDS.sub("", side) for side in equation.split("=")]
    values = [_value(side) for side in sides]
    return [
        _agree(left, right, result)
        for side, left, right, result in zip(sides, values, values[1:], sides[1:], strict=False)
        if left is not None and right is not None and re.search(r"[-+*/]", side.lstrip("-("))
    ]


def _agree(left: Fraction, right: Fraction, result: str) -> bool:
    """Whether two values are equal, as far as the digits of a written result go; `40%` may mean 40 or 0.4."""
    decimals = re.fullmatch(r"-?\d*(?:\.(\d+))?(%?)", result)
    rounding = Fraction(1, 2 * 10 ** len(decimals[1])) if decimals and decimals[1] else Fraction(0)
    if decimals and decimals[2]:
        return abs(left - 100 * right) <= rounding or abs(left - right) <= rounding / 100
    return abs(left - right) <= rounding


def _value(side: str) -> Fraction | None:
    """The value of `+ - * /`, brackets and numbers; None for anything else. Nothing is executed."""
    try:
        tree = ast.parse(re.sub(r"(?<![\d.])0+(?=\d)", "", _PERCENT.sub(r"(\1/100)", side)), mode="eval")
        return _evaluate(tree.body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None


def _evaluate(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_evaluate(left), _evaluate(right))
    raise ValueError(f"no arithmetic: {ast.dump(node)[:40]}")


def operations(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The operands, sorted, and the operators in their order, of all equations that `text` computes.

    Two solutions of equal operations are of the same numbers, whatever the story. The left sides alone count, so
    `3 + 4 = 7` has the operands 3 and 4; each is written as a fraction, that `0.50` and `.5` are one.
    """
    operands, signs = list[str](), list[str]()
    for equation in _MARK.findall(text) or [match[0] for match in _EQUATION.finditer(_normal(text))]:
        side, equals, _ = _WORDS.sub("", _normal(equation)).partition("=")
        side = _PERCENT.sub(r"(\1/100)", side)
        if equals and _value(side) is not None and (found := re.findall(r"(?<=[\d)])[-+*/]", side)):
            operands += [str(Fraction(number)) for number in re.findall(r"\d+(?:\.\d+)?|\.\d+", side)]
            signs += found
    return tuple(sorted(operands)), tuple(signs)


def begins(tokens: Sequence[int], text_of: Callable[[Sequence[int]], str]) -> list[int]:
    """How many tokens stand before each line or sentence of a text, 0 before the first.

    A token in which one ends and the next begins is the next one's.

    Args:
        text_of: what tokens say.
    """
    lengths = [len(text_of(tokens[:count])) for count in range(len(tokens) + 1)]
    ends = [found.end() for found in _END.finditer(text_of(tokens))]
    return sorted({0} | {bisect.bisect_right(lengths, end) - 1 for end in ends} - {len(tokens)})
