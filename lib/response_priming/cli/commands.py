"""The command line: what make calls, and people may. Here what makes a paper; the rest is in modules by subject."""

import contextlib
import shutil
import sys
from types import ModuleType
from typing import Annotated, cast

import typer

from response_priming import arms, artifacts, notebooks, params, paths, progress, provenance
from response_priming.cli.beforehand import app as beforehand
from response_priming.cli.checks import check_problems, check_student, check_teacher
from response_priming.cli.execution import execute_node
from response_priming.cli.finished import app as finished
from response_priming.cli.options import ProfileName, ProfileOption
from response_priming.cli.responses import app as responses
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
for more in (beforehand, finished, responses):
    app.add_typer(more)


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
    profile: ProfileOption = "laptop",
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
def run(
    stage: Annotated[str, typer.Argument(help=f"One of {', '.join(params.RUNS)}; or a notebook, as distill-none.")],
    profile: ProfileOption = "laptop",
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
    profile: ProfileOption = "laptop",
    seed: Annotated[int | None, typer.Option(help="Of the one student to train; default: of every seed.")] = None,
) -> None:
    """Train an arm's students without a notebook, which then finds them.

    On several GPUs: `accelerate launch -m response_priming distill --arm ARM`.
    """
    from response_priming import distill

    run = cast("params.DistillRun", notebooks.find(params.load(profile), f"distill-{arm}").run)
    for one in run.seeds if seed is None else [seed]:
        distill.train_one(run, one)


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
