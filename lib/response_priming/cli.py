"""The command line: what make calls, and people may."""

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, cast

import typer
import yaml

from response_priming import console, notebooks, params, paths
from response_priming.errors import InputError

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
    """Validate a profile, make sure its data and models can be had, and print every parameter."""
    from response_priming import engines, models, problems

    loaded = params.load(profile)
    precision = loaded.model.precision
    for engine in (loaded.generate.engine, loaded.evaluate.evaluate_engine):
        engines.require(engine)
    sizes = {
        "train": loaded.problems.n_train,
        "test": loaded.problems.n_test,
        "validation": loaded.generate.worked_examples,
    }
    found = {split: problems.load(loaded.problems, split, sizes[split], seed=loaded.seed) for split in problems.SPLITS}
    if shared := {problem.id for problem in found["train"]} & {problem.id for problem in found["validation"]}:
        raise InputError(
            f"problems.n_train = {sizes['train']}: leaves too few for {sizes['validation']} worked examples; "
            f"{len(shared)} of them would be training problems"
        )
    # Standard output is the parameters: what fetching says goes to standard error, in one line where it moves.
    with console.Line("check", console.shared(profile), stream=sys.stderr) as line, contextlib.redirect_stderr(line):
        for model in (loaded.generate.teacher, loaded.model.student):
            models.locate(model)
    if loaded.model.dtype == "auto":
        typer.echo(f"[check] model.dtype = auto: {precision} on this machine", err=True)
    typer.echo(yaml.safe_dump(loaded.model_dump(), sort_keys=False, allow_unicode=True, width=120), nl=False)


@app.command("plan")
def plan_(profile: ProfileName) -> None:
    """Write build/PROFILE/plan/, which tells make what is stale."""
    notebooks.write(params.load(profile))


@app.command()
def run(
    stage: Annotated[str, typer.Argument(help=f"One of {', '.join(params.RUNS)}.")],
    profile: Annotated[str, typer.Option(help="Parameter set: params/PROFILE.yaml.")] = "laptop",
    strategy: Annotated[
        str | None, typer.Option(help="For generate and prompt-signals: a name in params/prompts.yaml.")
    ] = None,
    arm: Annotated[str | None, typer.Option(help="For distill and evaluate: an arm of the profile.")] = None,
) -> None:
    """Execute one notebook with the profile's parameters into build/PROFILE/notebooks/."""
    loaded = params.load(profile)
    if stage not in params.RUNS:
        raise InputError(f"stage {stage!r}: unknown; allowed: {', '.join(params.RUNS)}")
    try:
        node = notebooks.find(loaded, stage, strategy or arm)
    except KeyError:
        nodes = notebooks.nodes(loaded) + notebooks.extras(loaded)
        known = ", ".join(node.item or "(none)" for node in nodes if node.stage == stage)
        raise InputError(f"{stage} of {strategy or arm!r}: not in profile {profile}; allowed: {known}") from None
    names = [other.name for other in notebooks.nodes(loaded)]
    place = f"{names.index(node.name) + 1}/{len(names)}" if node.name in names else "extra"
    with console.Line(node.name, console.shared(profile), place=f"[{place}] ") as line:
        line.start(f"{node.name} -> {paths.shown(node.executed)}")
        execute(node, line)
        line.done()


@app.command()
def distill(
    arm: Annotated[str, typer.Option(help="A trained arm of the profile.")],
    profile: Annotated[str, typer.Option(help="Parameter set: params/PROFILE.yaml.")] = "laptop",
) -> None:
    """Train an arm's students without a notebook, which then finds them.

    On several GPUs: `accelerate launch -m response_priming distill --arm ARM`.
    """
    from response_priming.distill import training as distill_stage

    loaded = params.load(profile)
    if arm not in loaded.trained:
        raise InputError(f"distill of {arm!r}: not in profile {profile}; allowed: {', '.join(loaded.trained)}")
    distill_stage.train(cast("params.DistillRun", loaded.run("distill", arm=arm)))


def execute(node: notebooks.Node, line: console.Line) -> None:
    """Execute a notebook by papermill. It is written beside its target and renamed once complete.

    What it writes to standard error is also said by the line; its standard output is in the executed notebook alone.

    A failed one stays beside its target as `*.partial.ipynb`, readable up to the cell that failed.
    """
    import papermill
    from traitlets.config import Config

    partial = node.executed.with_suffix(".partial.ipynb")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as sockets:
        arguments: dict[str, Any] = {
            "parameters": node.run.model_dump(),
            "kernel_name": "python3",
            "cwd": paths.NOTEBOOKS,
            "start_timeout": 300,
            # Sockets in files of its own: with TCP, kernels that start at the same time can race for a port.
            "config": Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"}),
            # The kernel's own log would pass the line by; now and then it says that an ending kernel was interrupted.
            "extra_arguments": ["--IPKernelApp.log_level=CRITICAL"],
            "coalesce_streams": True,  # of a bar, what is left on a terminal is left in the notebook: nothing
            "progress_bar": False,
            "stderr_file": line,
        }
        try:
            papermill.execute_notebook(node.notebook, partial, **arguments)
        except papermill.PapermillExecutionError as error:
            where = paths.shown(partial)
            if error.ename == InputError.__name__:
                raise InputError(f"{error.evalue} ({where})") from None
            line.say(f"{node.name} failed; the notebook up to there: {where}: {error.ename}: {error.evalue}")
            raise typer.Exit(1) from None
    partial.replace(node.executed)
    notebooks.mark_done(node)


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
    counts, table = scoring.score(scoring.read(file), rules)
    if verdicts:
        try:
            table.to_csv(verdicts, index=False)
        except OSError as error:
            raise InputError(f"{verdicts}: cannot be written: {error.strerror or error}") from None
    typer.echo(json.dumps(counts, indent=1) if as_json else scoring.shown(counts))


@app.command()
def report(profile: ProfileName) -> None:
    """Render the executed notebooks and the manuscript into build/PROFILE/report/_site/index.html."""
    from response_priming.report import page as report_stage

    loaded = params.load(profile)
    with console.Line("report", console.shared(profile), place="[report] ") as line:
        line.start("notebooks and manuscript -> pages")
        line.done(paths.shown(report_stage.render(loaded)))


@app.command("compare-runs")
def compare_runs(
    a: Annotated[str, typer.Argument(help="A profile, or the folder of a run.")] = "",
    b: Annotated[str, typer.Argument(help="Another one.")] = "",
) -> None:
    """Set two finished runs side by side, with the parameters that differ, in build/compare-runs/A-B/index.html."""
    if not (a and b):
        raise InputError("A or B is missing: name two runs, as in `make compare A=laptop B=single-gpu`")
    from response_priming.studies import two_runs_page

    typer.echo(f"The comparison: {two_runs_page.write(a, b)}")


@app.command()
def audit(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with the released response logs.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list of rows instead of a table.")] = False,
) -> None:
    """Count the released response logs anew: every arm by every rule, beside the logs' own grading and the README.

    `answered` and `correct` are numbers of responses; the interval is Wilson's, 95 %.
    """
    from response_priming.audit import released

    logs = released.read(folder)  # before the slow imports: a bad folder is refused at once
    import pandas as pd

    from response_priming.audit import findings as audit_stage
    from response_priming.audit import recount

    facts, found = audit_stage.published(), recount.count(logs)
    rows = recount.rows(found, facts)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        table = pd.DataFrame(rows).astype({"answered": "Int64", "correct": "Int64"})
        typer.echo(table.to_string(index=False, na_rep="", float_format="{:.4f}".format))
    typer.echo(audit_stage.source(found, facts), err=True)


@app.command()
def parameters(stage: Annotated[str, typer.Argument(help=f"One of {', '.join(params.RUNS)}.")]) -> None:
    """Print the `parameters` cell that a stage's notebook must have."""
    typer.echo(params.parameters_cell(stage))


def main() -> None:
    """Entry point: an `InputError` is one line on standard error and exit code 2."""
    try:
        app()
    except InputError as error:
        sys.exit(_refuse(error))


def _refuse(error: InputError) -> int:
    typer.echo(f"response-priming: {error}", err=True)
    return 2
