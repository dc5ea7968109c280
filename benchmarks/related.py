"""Related methods beside their controls, on the embedded model: the table of a finished run, with its advice.

python benchmarks/related.py    # seconds, after `make related`; writes benchmarks/results/related.md
"""

from pathlib import Path

import pandas as pd

from response_priming import params, provenance, studies, style

RESULTS = Path(__file__).with_name("results")


def gain(row: dict[str, float], over: str) -> str:
    """Points with their corrected interval, empty where nothing is compared."""
    if pd.isna(row[f"{over}_points"]):
        return ""
    return f"{row[f'{over}_points']:+.1f} ({style.interval(row[f'{over}_low'], row[f'{over}_high'])})"


def main() -> None:
    """Read the rows, which are there, and write the table."""
    run = params.load("related-laptop").run("related")
    table, gains = studies.compare(run)
    columns = ["row", "accuracy", "over control (points)", "over KD (points)", "CPU s", "mechanism"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in table.dropna(subset="accuracy").to_dict("records"):
        accuracy = f"{style.percent(row['accuracy'])} ({style.interval(100 * row['low'], 100 * row['high'])})"
        cells = [row["title"], accuracy, gain(row, "control"), gain(row, "kd"), f"{row['cpu_seconds']:,.0f}"]
        lines.append("| " + " | ".join([*cells, row["mechanism"].replace("\n", "; ")]) + " |")
    about = f"`python benchmarks/related.py` after `make related`; {provenance.summary(run)}"
    text = ["# Related methods beside their controls", about, "\n".join(lines), studies.advice(table, gains)]
    RESULTS.joinpath("related.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
