"""The command line: `commands`, what make calls, and people may; `checks`, what `check` finds before anything runs."""

from response_priming.cli.commands import app, main

__all__ = ["app", "main"]
