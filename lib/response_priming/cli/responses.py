"""The command line for responses from elsewhere: any file of them, and the released logs."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from response_priming import arms
from response_priming.errors import InputError

app = typer.Typer()


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="JSON lines or CSV with columns `answer` and `response`, see above.")],
    rule: Annotated[list[str] | None, typer.Option(help="Extraction rule; may be repeated. Default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object a rule.")] = False,
    verdicts: Annotated[Path | None, typer.Option(help="Write row, rule, extracted, correct to this CSV.")] = None,
) -> None:
    """Score any file of responses by the extraction rules.

    `answer` is a GSM8K solution that ends in `#### N`, or a number; `response` is the text to score. Rows are counted
    from 1. Printed for each rule: n, answered (a number was found), correct, accuracy and its 95 % Wilson interval.
    """
    from response_priming import scoring

    rules = scoring.known(rule or [])
    if verdicts and file.exists() and verdicts.exists() and verdicts.samefile(file):
        raise InputError(f"{verdicts}: holds the responses; write the verdicts to another file")
    counts, table = scoring.score(scoring.read(file), rules)
    if verdicts:
        try:
            table.to_csv(verdicts, index=False)
        except OSError as error:
            raise InputError(f"{verdicts}: cannot be written: {error.strerror or error}") from None
    typer.echo(json.dumps(counts, indent=1) if as_json else scoring.shown(counts))


@app.command("audit")
def audit_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with the released response logs.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list of rows instead of a table.")] = False,
    disputed: Annotated[
        Path | None, typer.Option(help="Numbers of problems with disputed answers, from 0, one a line.")
    ] = None,
) -> None:
    """Count the released response logs anew: every arm by every rule, beside the logs' own grading and the README.

    `answered` and `correct` are numbers of responses; the interval is Wilson's, 95 %. With a list of disputed problems,
    what they bear out with and without these is printed instead.
    """
    from response_priming import audit

    logs = audit.read(folder)  # before the slow imports: a bad folder is refused at once
    import pandas as pd

    facts, found = arms.published(), audit.count(logs)
    rows: list[Any] = audit.rows(found, facts)
    if disputed:
        kept = audit.without(logs, audit.read_disputed(disputed, found["n"]))
        rows = audit.survivors(found, kept, facts).to_dict("records")
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        table = pd.DataFrame(rows) if disputed else pd.DataFrame(rows).astype({"answered": "Int64", "correct": "Int64"})
        typer.echo(table.to_string(index=False, na_rep="", float_format="{:.4f}".format))
    typer.echo(audit.source(found, facts), err=True)
