"""Stage audit: the released response logs counted anew, beside the README's figures and the logs' own grading.

Everything here follows from a few counts. They are recorded in params/published-results.yaml, so the audit can be shown
without the logs, which have no licence and are not part of this project; where a folder of logs is given, they are
counted again, and whether the two agree is said.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from response_priming import artifacts, paths
from response_priming.audit.cleaned import COLUMNS, read_disputed, survivors, without
from response_priming.audit.discrepancies import numbers, source, table
from response_priming.audit.recount import count, tabulate
from response_priming.audit.released import read

if TYPE_CHECKING:
    from response_priming import params

TABLES = ("published", "rules", "decomposition", "tests", "discrepancies", "cleaned")


@dataclass(frozen=True)
class Audit:
    """What `audit` found: the tables of `recount.tabulate` and `discrepancies.table`, and what prose names of it: the
    values of `discrepancies.numbers`, and `source`, a sentence that says where the counts come from."""

    published: pd.DataFrame
    rules: pd.DataFrame
    decomposition: pd.DataFrame
    tests: pd.DataFrame
    discrepancies: pd.DataFrame
    cleaned: pd.DataFrame
    variables: dict[str, Any]


def audit(run: "params.AuditRun") -> Audit:
    """The audit of `run.logs_dir`, or of the recorded counts where that is None; computed unless it is there already.

    Raises:
        InputError: the folder is not one with the released logs (see `released.read`), or the file not one of disputed
            problems (see `cleaned.read_disputed`).
    """
    folder = run.folders[0]
    facts = folder.more["published"]

    def write(aside: Path) -> None:
        logs = read(paths.given(run.logs_dir)) if run.logs_dir else None
        found = count(logs) if logs else None
        made = tabulate(found or facts["recount"], facts)
        values = numbers(found or facts["recount"], facts, made) | {"source": source(found, facts)}
        made["discrepancies"], made["cleaned"] = table(facts, values), pd.DataFrame(columns=COLUMNS)
        dropped: list[int] = []
        if run.disputed and logs and found:
            dropped = read_disputed(paths.given(run.disputed), found["n"])
            made["cleaned"] = survivors(found, without(logs, dropped), facts)
        values |= {"disputed": len(dropped), "survives": list(made["cleaned"]["survives"])}
        for name, content in made.items():
            content.to_csv(aside / f"{name}.csv", index=False)
        (aside / "variables.json").write_text(json.dumps(values, indent=1), encoding="utf-8")

    made = artifacts.made(folder.path, artifacts.recipe(run, folder), write)
    # Only empty fields are missing values: an arm is called "none".
    tables = {name: pd.read_csv(made / f"{name}.csv", keep_default_na=False, na_values=[""]) for name in TABLES}
    return Audit(**tables, variables=json.loads((made / "variables.json").read_text(encoding="utf-8")))
