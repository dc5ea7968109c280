"""The command line after a run: verify it, change it, make it again, and set it beside another one."""

import contextlib
import json
from pathlib import Path
from typing import Annotated

import typer

from response_priming import arms, params, paths, progress
from response_priming.cli.execution import execute
from response_priming.cli.options import ProfileOption
from response_priming.errors import InputError

app = typer.Typer()


@app.command()
def verify(
    run: Annotated[str, typer.Argument(metavar="BUILD", help="A profile, or its folder, as build/laptop.")] = "laptop",
) -> None:
    """Check a finished run: every digest, every recipe, and the page's numbers computed anew from the stored answers.

    Exit code 1 where something differs; each such thing is one line, with what would heal it.
    """
    from response_priming import report

    folder = paths.BUILD / run if run in params.profiles() else Path(run).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"{run}: neither a profile that was run ({', '.join(params.profiles())}) nor a folder")
    paths.BUILD = folder.parent
    differing = 0
    for line in report.verify(params.load(folder.name)):
        typer.echo(line)
        differing += 1
    if differing:
        raise typer.Exit(1)
    typer.echo(f"{paths.shown(folder)}: every file, recipe and number is as it was made")


@app.command()
def explore(
    setting: Annotated[str, typer.Argument(metavar="PARAMETER=VALUE", help="As distill.alpha=0.7; a list as in JSON.")],
    profile: ProfileOption = "laptop",
    arm: Annotated[str, typer.Option(help="An arm of the profile; default: none, or its first trained one.")] = "",
) -> None:
    """Make one arm of a finished run again with one parameter changed, in explored/, and say what the change gains."""
    from response_priming import studies, style

    loaded, (parameter, _, text) = params.load(profile), setting.partition("=")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    changed, baseline = loaded.changed(parameter, value), studies.read_run(str(loaded.build))
    with progress.Line("explore", progress.shared(loaded.build)) as line:
        line.start(setting)
        with contextlib.redirect_stderr(line):
            default = next(iter([*{arms.UNPRIMED} & {*loaded.arms}, *loaded.trained, *loaded.arms]))
            folder = studies.explore(loaded, changed, arm or default)
        line.done(paths.shown(folder))
    for row in studies.accuracies(baseline, studies.read_run(str(folder))).dropna(subset=["points"]).to_dict("records"):
        points = f"{row['points']:+.1f} points, 95 % interval {style.interval(row['low'], row['high'])}"
        typer.echo(f"{row['title']}: {style.percent(row['a'])}, with {setting} {style.percent(row['b'])}: {points}")


@app.command()
def reproduce(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="A finished run's folder, or its record.")],
) -> None:
    """Write the profile by which a finished run is made again, and print its name; `make reproduce` then makes it.

    What is another here than there, and what it took there, goes to standard error.
    """
    from response_priming import report

    plan = report.prepare(source)
    for line in plan.differences:
        typer.echo(f"[reproduce] {line}", err=True)
    took = f"{progress.duration(plan.wall_seconds)}, a step after the other ({plan.cpu_seconds / 60:.1f} CPU min)"
    typer.echo(f"[reproduce] there it took {took}; parameters: {paths.shown(plan.file)}", err=True)
    typer.echo(plan.name)


@app.command()
def numbers(
    first: Annotated[Path, typer.Argument(metavar="A", help="A finished run's folder, or its record.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
) -> None:
    """Say of every number of two pages, and of every word that depends on one, whether it is equal or different.

    Exit code 1 where one is different. Figures are not compared.
    """
    from response_priming import report

    counted = {"equal": 0, "different": 0}
    for name, there, here in report.numbers(first, second):
        verdict = "equal" if there == here else "different"
        counted[verdict] += 1
        typer.echo(
            f"{verdict:9} {name} = {here}" if there == here else f"{verdict} {name} = {there} there, {here} here"
        )
    typer.echo(", ".join(f"{count} {verdict}" for verdict, count in counted.items()))
    if counted["different"]:
        raise typer.Exit(1)


@app.command("compare-runs")
def compare_runs(
    first: Annotated[str, typer.Argument(metavar="[A]", help="A profile, or the folder of a run.")] = "",
    second: Annotated[str, typer.Argument(metavar="[B]", help="Another one.")] = "",
) -> None:
    """Set two finished runs side by side, with the parameters that differ, in build/compare-runs/A-B/index.html."""
    if not (first and second):
        raise InputError("A or B is missing: name two runs, as in `make compare A=laptop B=single-gpu`")
    from response_priming import report, studies

    a, b = studies.read_run(first), studies.read_run(second)
    folder = paths.BUILD / "compare-runs" / f"{a.slug}-{b.slug}"
    executed, runs = folder / "compare-runs.ipynb", {"A": str(a.folder), "B": str(b.folder)}
    with progress.Line("compare-runs", folder / "console") as line:
        execute(paths.NOTEBOOKS / executed.name, executed, runs, line, folder=folder)
    page = folder / "index.html"
    page.write_text(report.notebook_page(executed, f"{a.name} and {b.name}, side by side"), encoding="utf-8")
    typer.echo(f"The comparison: {page}")
