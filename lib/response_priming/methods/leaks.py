"""Leaks: problems that a method writes, or learns from, and that the test asks as well."""

from collections.abc import Iterable, Sequence

from response_priming import problems
from response_priming.errors import InputError
from response_priming.methods import steps


def leaks(written: Iterable[problems.Problem], test: Sequence[problems.Problem]) -> list[str]:
    """The ids of problems whose question is one of `test`, or whose solution has the operands and operations of one.

    Questions are compared by their words (see `problems.plain`), operations by `steps.operations`.
    """
    questions = {problems.plain(problem.question) for problem in test}
    computed = {steps.operations(problem.solution) for problem in test} - {((), ())}
    return [
        problem.id
        for problem in written
        if problems.plain(problem.question) in questions or steps.operations(problem.solution) in computed
    ]


def require_none(written: Sequence[problems.Problem], test: Sequence[problems.Problem], where: str) -> None:
    """`InputError` where the store `where` holds a problem of the test."""
    if found := leaks(written, test):
        more = f" and {len(found) - 1} more" * (len(found) > 1)
        raise InputError(f"{where}: {found[0]}{more}: asked in the test, too; allowed: problems that it does not ask")
