"""The one exception for what a person can put right: bad parameters, files, models or machines."""

import errno
import os
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from response_priming import paths


class InputError(Exception):
    """One line that names the file or key, the value, and what is allowed. The command line prints it and exits 2.

    Paths within the project are shown relative to it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.replace(f"{paths.ROOT}{os.sep}", ""))

    def _render_traceback_(self) -> list[str]:
        # IPython asks for this: in a notebook, too, the line is all there is to read.
        return [f"{type(self).__name__}: {self}"]


FULL = (errno.ENOSPC, errno.EDQUOT)  # of an OSError: a disk, or one's share of it, is full


def full_disk(place: Path) -> InputError:
    """What to say where nothing more can be written."""
    return InputError(
        f"{place}: no space left on the disk; free some and run again: what is finished is kept, and the run continues "
        "from there"
    )


def first_problem(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first problem in one line: key, value and what is allowed."""
    problem = error.errors()[0]
    parts = [str(part) for part in problem["loc"] if part != "[key]"]
    key = ".".join(part if part.isprintable() else repr(part) for part in parts)
    if problem["type"] == "extra_forbidden":
        kind: Any = schema
        for part in problem["loc"][:-1]:
            kind = _fields(kind)[part] if _fields(kind) else get_args(kind)[-1]
        return f"{key} = {problem['input']!r}: unknown key; allowed: {', '.join(_fields(kind))}"
    if problem["type"] == "missing":
        return f"{key}: is missing"
    if problem["type"] == "value_error":
        message = str(problem["ctx"]["error"])
        return f"{key}: {message}" if key else message
    return f"{key} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _fields(kind: Any) -> dict[Any, Any]:
    """The types of a model's or a typed dictionary's fields by name; none of any other type."""
    if hasattr(kind, "model_fields"):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return dict(getattr(kind, "__annotations__", {}))
