"""The command line: `commands` make a paper; `beforehand`, `finished` and `responses` are the others, by subject.

`checks`, what `check` finds before anything runs; `execution` of a notebook; `cluster`, of all that are stale on Ray,
with a `storage` for nodes without a shared path; `options`, arguments that several commands have.
"""

from response_priming.cli.commands import app, main

__all__ = ["app", "main"]
