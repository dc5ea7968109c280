"""The command line: what make calls, and people may."""

import contextlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, cast

import typer

from response_priming import arms, artifacts, notebooks, params, paths, progress, provenance
from response_priming.cli.checks import check_problems, check_student, check_teacher
from response_priming.cli.execution import execute, execute_node
from response_priming.errors import FULL, InputError, full_disk

# Who reads notebooks imports jsonschema, which would compile a grammar of internationalised addresses: over a second of
# every process, for a format that no notebook's schema has.
sys.modules.setdefault("rfc3987_syntax", cast("ModuleType", None))

app = typer.Typer(
    help="Response priming in distillation: run a stage, check a profile.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ProfileName = Annotated[str, typer.Argument(help="Parameter set: params/PROFILE.yaml.")]


@app.command()
def check(profile: ProfileName) -> None:
    """Validate a profile, find what would fail once the teacher has answered, and print every parameter."""
    loaded = params.load(profile)
    precision, console = loaded.model.precision, progress.shared(loaded.build)
    found = check_problems(loaded)
    # Standard output is the parameters: what fetching says goes to standard error, in one line where it moves.
    with progress.Line("check", console, stream=sys.stderr) as line, contextlib.redirect_stderr(line):
        check_student(loaded, found)
        if loaded.strategies or loaded.scored:
            check_teacher(loaded, found)
    for parameter, (name, revision) in loaded.from_hub.items():
        if revision is None:
            commit = provenance.hub_commit(name, None) or "unknown"
            typer.echo(f"[check] {parameter}_revision = None: {name} as it is in the cache, commit {commit}", err=True)
    if loaded.model.dtype == "auto":
        typer.echo(f"[check] model.dtype = auto: {precision} on this machine", err=True)
    typer.echo(loaded.written, nl=False)


@app.command("plan")
def plan_(profile: ProfileName) -> None:
    """Write build/PROFILE/plan/, which tells make what is stale."""
    notebooks.write(params.load(profile))


@app.command()
def why(
    node: Annotated[str, typer.Argument(help="A notebook, as distill-none, or report.")],
    profile: Annotated[str, typer.Option(help="Parameter set: params/PROFILE.yaml.")] = "laptop",
) -> None:
    """Say in one sentence why `make` would execute a notebook or make the page again, or that it would not."""
    found = notebooks.states(params.load(profile))
    if node not in found:
        raise InputError(f"node {node!r}: unknown; allowed: {', '.join(found)}")
    typer.echo(f"{node}: {found[node].reason or 'up to date'}")


@app.command()
def clean(
    profile: ProfileName,
    responses: Annotated[bool, typer.Option("--responses", help="What the teacher gave, too; asks before.")] = False,
) -> None:
    """Remove a profile's results, and say what goes and how long it took to make; the teacher's responses stay."""
    try:
        arms.well_formed(profile)
    except ValueError as error:
        raise InputError(f"profile: {error}") from None
    folders = [path for path in sorted((paths.BUILD / profile).glob("*")) if path.is_dir()]
    going = [path for path in folders if responses or path.name not in ("responses", "prompt-signals")]
    for path in going:
        made = [found for file in path.rglob(artifacts.FILE) if (found := artifacts.manifest(file.parent))]
        took = progress.duration(sum(one.get("wall_seconds", 0) for one in made))
        typer.echo(f"{paths.shown(path)}: {len(made)} results, {took} to make")
    if responses and going:
        typer.confirm("Remove them?", abort=True)
    for path in going:
        shutil.rmtree(path)
    (paths.BUILD / profile / notebooks.CRATE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (paths.BUILD / profile).rmdir()


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
def run(
    stage: Annotated[str, typer.Argument(help=f"One of {', '.join(params.RUNS)}; or a notebook, as distill-none.")],
    profile: Annotated[str, typer.Option(help="Parameter set: params/PROFILE.yaml.")] = "laptop",
    strategy: Annotated[
        str | None, typer.Option(help="For generate and prompt-signals: a name in params/prompts.yaml.")
    ] = None,
    arm: Annotated[str | None, typer.Option(help="For distill and evaluate: an arm of the profile.")] = None,
) -> None:
    """Execute one notebook with the profile's parameters into build/PROFILE/notebooks/."""
    loaded = params.load(profile)
    node = notebooks.find(loaded, "-".join(filter(None, [stage, strategy or arm])))
    execute_node(loaded, node)


@app.command()
def cluster(
    profile: ProfileName,
    address: Annotated[str, typer.Argument(help="`local`, `auto`, or a Ray cluster's address, as ray://HOST:10001.")],
    goal: Annotated[str, typer.Option(help="A notebook, as search; default: the paper and its page.")] = "report",
    storage: Annotated[str, typer.Option(help="Address of results, for nodes without a shared path: s3://...")] = "",
) -> None:
    """Execute every stale notebook on a Ray cluster; `make paper CLUSTER=...` does."""
    from response_priming.cli.cluster import make
    from response_priming.cli.storage import Storage

    make(params.load(profile), address, goal, Storage(storage) if storage else None)
    if goal == "report" and notebooks.states(params.load(profile))["report"].reason:
        report_(profile)


@app.command("distill")
def distill_(
    arm: Annotated[str, typer.Option(help="A trained arm of the profile.")],
    profile: Annotated[str, typer.Option(help="Parameter set: params/PROFILE.yaml.")] = "laptop",
    seed: Annotated[int | None, typer.Option(help="Of the one student to train; default: of every seed.")] = None,
) -> None:
    """Train an arm's students without a notebook, which then finds them.

    On several GPUs: `accelerate launch -m response_priming distill --arm ARM`.
    """
    from response_priming import distill

    run = cast("params.DistillRun", notebooks.find(params.load(profile), f"distill-{arm}").run)
    for one in run.seeds if seed is None else [seed]:
        distill.train_one(run, one)


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


@app.command()
def power(
    profile: ProfileName,
    discordant: Annotated[float, typer.Option(help="Problems that only one of two arms' students solves.")] = 0.3,
    alike: Annotated[float, typer.Option(help="Correlation of such differences between pairs of students.")] = 0.5,
    student_sd: Annotated[
        float, typer.Option(help="SD of students' accuracies (points), beyond single answers.")
    ] = 2.4,
) -> None:
    """The smallest gains that a profile's comparisons find 4 times in 5, and larger designs; before anything is run.

    `primary`: Ground Truth against no prompt; `others`: the least precise of all comparisons, corrected for them all.
    """
    for name, value, limit in (("discordant", discordant, 1), ("alike", alike, 1), ("student-sd", student_sd, 50)):
        if not 0 <= value <= limit:
            raise InputError(f"--{name} = {value}: allowed: 0 to {limit}")
    from response_priming import compare

    loaded, assumed = params.load(profile), {"discordant": discordant, "alike": alike, "student_sd": student_sd}
    found = compare.power(loaded.arms, loaded.problems.n_test, len(loaded.seeds), seed=loaded.seed, **assumed)
    if not len(found):
        raise InputError(f"profile {profile}: arms = {loaded.arms}: no two of them are compared")
    typer.echo("{:>8}  {:>8}  {:>8}  {:>8}  {}".format(*found))
    for row in found.itertuples(index=False):
        typer.echo("{:8,}  {:8}  {:8.1f}  {:8.1f}  {}".format(*row))


@app.command()
def cost(
    profile: ProfileName,
    gpu: Annotated[
        str,
        typer.Option(help="Kind of GPU; default: h100 where the profile's device is cuda, else this machine's CPU."),
    ] = "",
    price: Annotated[float, typer.Option(help="Of an hour of one GPU, in any currency.", min=0)] = 0.0,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure a short sample on this machine, one or two minutes.")
    ] = False,
) -> None:
    """What a profile takes, before anything runs: tokens, memory, GPUs, bytes, hours and money.

    `read` and `written` are tokens; `beside` the weights is the cache of keys and values, or what training keeps; GPUs
    are given by the profile, and needed of that kind. Hours: from a well-used machine to a badly used one, or as a
    sample of the profile's own stages takes them here; processors' hours where there is no GPU.
    """
    from response_priming import machines

    loaded, measured = params.load(profile), None
    if calibrate:
        with progress.Line("cost", progress.shared(loaded.build), stream=sys.stderr) as line:
            line.start("a sample of each stage")
            with contextlib.redirect_stderr(line), contextlib.redirect_stdout(line):
                measured = machines.measure(loaded, gpu or None)
            line.done()
    found = machines.estimate(loaded, gpu or None, measured)
    for line in machines.shown(found, price):
        typer.echo(line)
    if found.change:
        raise InputError(f"profile {profile}: does not fit {found.on}; the smallest change that does: {found.change}")


@app.command("gpu-check")
def gpu_check(
    folder: Annotated[Path | None, typer.Argument(help="Where to write, also without a GPU.")] = None,
) -> None:
    """Try on this machine's GPU what the suite does, smallest first; writes benchmarks/results/gpu-NAME.md."""
    from response_priming.machines import check

    if any(one.verdict.startswith("failed") for one in check.run(folder)):
        raise typer.Exit(1)


@app.command("report")
def report_(profile: ProfileName) -> None:
    """Render the executed notebooks and the manuscript into build/PROFILE/report/_site/index.html."""
    from response_priming import report, studies

    loaded = params.load(profile)
    with progress.Line("report", progress.shared(loaded.build), place="[report] ") as line:
        line.start("notebooks and manuscript -> pages")
        content, watch = notebooks.page_content(loaded), artifacts.Stopwatch()
        page, took = report.render(loaded, studies.tried(loaded)), watch.seconds()
        notebooks.mark_done(notebooks.page_of(loaded)[0], content, report.write(loaded, took), took)
        line.done(paths.shown(page))


@app.command()
def explore(
    setting: Annotated[str, typer.Argument(metavar="PARAMETER=VALUE", help="As distill.alpha=0.7; a list as in JSON.")],
    profile: Annotated[str, typer.Option(help="Parameter set: params/PROFILE.yaml.")] = "laptop",
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


@app.command()
def parameters(stage: Annotated[str, typer.Argument(help=f"One of {', '.join(params.RUNS)}.")]) -> None:
    """Print the `parameters` cell that a stage's notebook must have."""
    typer.echo(params.parameters_cell(stage))


def main() -> None:
    """Entry point: an `InputError`, or a full disk, is one line on standard error and exit code 2."""
    try:
        app()
    except (InputError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in FULL:
            raise
        said = full_disk(paths.BUILD) if isinstance(error, OSError) else error
        typer.echo(f"response-priming: {said}", err=True)
        sys.exit(2)
