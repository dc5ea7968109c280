"""The command line: `commands`, what make calls, and people may; `checks`, what `check` finds before anything runs;
`execution`, of a notebook."""

from response_priming.cli.commands import app, main

__all__ = ["app", "main"]
