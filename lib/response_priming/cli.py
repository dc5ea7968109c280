"""The command line: what make calls, and people may."""

import contextlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, cast

import typer

from response_priming import arms, artifacts, notebooks, params, paths, problems, progress, provenance
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
# Problems whose prompts `check` measures, the longest of a split; and of a teacher's, which are measured by strategy.
MANY, FEW = 200, 20
Found = dict[problems.Split, list[problems.Problem]]
ProfileName = Annotated[str, typer.Argument(help="Parameter set: params/PROFILE.yaml.")]


@app.command()
def check(profile: ProfileName) -> None:
    """Validate a profile, find what would fail once the teacher has answered, and print every parameter."""
    loaded = params.load(profile)
    precision = loaded.model.precision
    found = _check_problems(loaded)
    if loaded.audit.logs_dir:
        from response_priming import audit

        audit.read(paths.given(loaded.audit.logs_dir))
    # Standard output is the parameters: what fetching says goes to standard error, in one line where it moves.
    with progress.Line("check", progress.shared(profile), stream=sys.stderr) as line, contextlib.redirect_stderr(line):
        _check_student(loaded, found)
        if loaded.strategies or loaded.scored:
            _check_teacher(loaded, found)
    for role, name, revision in (
        ("generate.teacher", loaded.generate.teacher, loaded.generate.teacher_revision),
        ("model.student", loaded.model.student, loaded.model.student_revision),
    ):
        if revision is None and params.is_on_hub(name):
            commit = provenance.hub_commit(name, None) or "unknown"
            typer.echo(f"[check] {role}_revision = None: whatever {name} is on the hub, now {commit}", err=True)
    if loaded.model.dtype == "auto":
        typer.echo(f"[check] model.dtype = auto: {precision} on this machine", err=True)
    typer.echo(loaded.written, nl=False)


def _check_problems(loaded: params.Profile) -> Found:
    """The longest problems of each split; `InputError` where there are too few for what is made of them."""
    train, test, worked = loaded.problems.n_train, loaded.problems.n_test, loaded.generate.worked_examples
    if test < 2:
        raise InputError(f"problems.n_test = {test}: intervals and tests need 2 or more")
    if (looked_at := loaded.attention.attention_prompts) > test:
        raise InputError(f"attention.attention_prompts = {looked_at}: more than problems.n_test = {test}")
    if arms.SHUFFLED in loaded.arms and train < 2:
        raise InputError(f"problems.n_train = {train}: arm {arms.SHUFFLED!r} needs 2 or more")
    for share in {loaded.distill_of(arm).held_out for arm in loaded.trained} - {0}:
        if not 0 < (kept := round(share * train)) < train:
            raise InputError(
                f"distill.held_out = {share}: keeps {kept} of {train} problems for validation; allowed: 0, or a share "
                "that leaves problems on both sides"
            )
    found = {
        split: problems.some(loaded.problems, split, size, seed=loaded.seed)
        for split, size in zip(problems.SPLITS, (train, worked, test), strict=True)
    }
    if shared := {problem.id for problem in found["train"]} & {problem.id for problem in found["validation"]}:
        raise InputError(
            f"problems.n_train = {train}: leaves too few for {worked} worked examples; "
            f"{len(shared)} of them would be training problems"
        )
    longest = {split: sorted(all_, key=lambda one: len(one.question + one.worked)) for split, all_ in found.items()}
    return {split: ordered[-MANY:] for split, ordered in longest.items()} | {"validation": found["validation"]}


def _check_student(loaded: params.Profile, found: Found) -> None:
    """`InputError` where the student lacks what is trained or looked at, or a prompt is too long for it."""
    from response_priming import attention, engines, methods, models, prompts

    about, trainings = loaded.model, {arm: loaded.distill_of(arm) for arm in loaded.trained}
    name, revision = about.student, about.student_revision
    quantization = "nf4" if any(one.adapter == "qlora" for one in trainings.values()) else "none"
    setup = engines.Setup(name, revision, about.dtype, about.device, quantization)
    engines.require(loaded.evaluate.evaluate_engine).check(setup)
    skeleton, reader = models.skeleton(name, revision), models.tokenizer(name, revision)
    models.require_weights(name, revision)
    for arm, training in trainings.items():
        if training.adapter != "full":
            methods.lora_config(loaded.run("distill", arm=arm), skeleton)
    config = skeleton.config.get_text_config()
    layers, heads, skipped = config.num_hidden_layers, config.num_attention_heads, loaded.attention.skip_layers
    if skipped >= layers:
        raise InputError(f"attention.skip_layers = {skipped}: the student has {layers} layers; allowed: fewer")
    for layer, head in loaded.attention.chosen_heads:
        if layer >= layers - skipped or head >= heads:
            raise InputError(
                f"attention.chosen_heads = {[layer, head]}: is not there; allowed: layers 0 to {layers - skipped - 1}, "
                f"heads 0 to {heads - 1}"
            )
    prompt = {
        problem.id: prompts.encode(reader, prompts.bare(problem.question, about.system_prompt), about.prompt_date)
        for problem in (*found["train"], *found["test"])
    }
    for problem in found["train"]:
        needed = len(prompt[problem.id]) + len(prompts.encode_response(reader, problem.worked))
        for training in trainings.values():
            if needed > training.train_tokens:
                raise InputError(f"distill.train_tokens = {training.train_tokens}: problem {problem.id} needs {needed}")
    asked = [prompt[problem.id] for problem in found["test"]]
    _check_budget("evaluate.answer_tokens", loaded.evaluate.answer_tokens, asked, config)
    attention.texts_of(loaded.run("attention-visualize"), reader, skeleton.config)


def _check_teacher(loaded: params.Profile, found: Found) -> None:
    """`InputError` where the engine cannot run the teacher, or no student can learn from what it gives."""
    from response_priming import engines, generate, models, prompts

    run = cast("params.GenerateRun", loaded.run("generate", strategy=arms.UNPRIMED))
    engines.require(run.engine).check(engines.teacher_of(run))
    config = models.config(run.teacher, run.teacher_revision).get_text_config()
    if run.engine != "server":
        models.require_weights(run.teacher, run.teacher_revision)
    if run.top_k != "all" and run.top_k > config.vocab_size:
        raise InputError(f"generate.top_k = {run.top_k}: the teacher has {config.vocab_size} tokens; allowed: as many")
    taught = [loaded.distill_of(arm) for arm in loaded.trained if arm != arms.FINE_TUNED]
    if any(training.signal == "tokens" for training in taught):
        generate.check_tokens(run.model_copy(update={"signal": "tokens"}))
        width = models.config(run.student, run.student_revision).get_text_config().vocab_size
        if run.top_k == "all" and config.vocab_size != width:
            raise InputError(
                f"generate.top_k = 'all': the teacher gives {config.vocab_size} probabilities, the student {width}; "
                "allowed: a number"
            )
    reader = models.tokenizer(run.teacher, run.teacher_revision)
    for strategy in loaded.strategies:
        prefix = prompts.prefix_of(strategy)
        asked = [
            prompts.encode(
                reader,
                prompts.messages(
                    problem.question, system_prompt=run.system_prompt, prefix=prefix, examples=found["validation"]
                ),
                run.prompt_date,
            )
            for problem in found["train"][-FEW:]
        ]
        _check_budget("generate.response_tokens", run.response_tokens, asked, config)


def _check_budget(parameter: str, budget: int, asked: list[list[int]], config: Any) -> None:
    """`InputError` where prompts and so many new tokens exceed a model's context."""
    from response_priming import engines

    try:
        engines.check_context(asked, budget, getattr(config, "max_position_embeddings", None))
    except InputError as error:
        raise InputError(f"{parameter} = {budget}: {error}") from None


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
    names = [other.name for other in notebooks.nodes(loaded)]
    place = f"{names.index(node.name) + 1}/{len(names)}" if node.name in names else "extra"
    notebooks.require(loaded, node)
    content = node.content()  # as it is now, whatever is edited meanwhile
    with progress.Line(node.name, progress.shared(profile), place=f"[{place}] ") as line:
        line.start(f"{node.name} -> {paths.shown(node.executed)}")
        notebooks.execute(node.notebook, node.executed, node.run.model_dump(), line)
        notebooks.mark_done(node.stamp, content, node.executed)
        line.done()


@app.command("distill")
def distill_(
    arm: Annotated[str, typer.Option(help="A trained arm of the profile.")],
    profile: Annotated[str, typer.Option(help="Parameter set: params/PROFILE.yaml.")] = "laptop",
) -> None:
    """Train an arm's students without a notebook, which then finds them.

    On several GPUs: `accelerate launch -m response_priming distill --arm ARM`.
    """
    from response_priming import distill

    node = notebooks.find(params.load(profile), f"distill-{arm}")
    distill.train(cast("params.DistillRun", node.run))


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


@app.command("report")
def report_(profile: ProfileName) -> None:
    """Render the executed notebooks and the manuscript into build/PROFILE/report/_site/index.html."""
    from response_priming import report

    loaded = params.load(profile)
    with progress.Line("report", progress.shared(profile), place="[report] ") as line:
        line.start("notebooks and manuscript -> pages")
        content = notebooks.page_content(loaded)
        page = report.render(loaded)
        notebooks.mark_done(notebooks.page_of(loaded)[0], content, page)
        line.done(paths.shown(page))


@app.command("compare-runs")
def compare_runs(
    first: Annotated[str, typer.Argument(metavar="[A]", help="A profile, or the folder of a run.")] = "",
    second: Annotated[str, typer.Argument(metavar="[B]", help="Another one.")] = "",
) -> None:
    """Set two finished runs side by side, with the parameters that differ, in build/compare-runs/A-B/index.html."""
    if not (first and second):
        raise InputError("A or B is missing: name two runs, as in `make compare A=laptop B=single-gpu`")
    from response_priming import studies

    a, b = studies.read_run(first), studies.read_run(second)
    folder = paths.BUILD / "compare-runs" / f"{a.slug}-{b.slug}"
    executed, runs = folder / "compare-runs.ipynb", {"A": str(a.folder), "B": str(b.folder)}
    with progress.Line("compare-runs", folder / "console") as line:
        notebooks.execute(paths.NOTEBOOKS / executed.name, executed, runs, line, folder=folder)
    page = folder / "index.html"
    page.write_text(notebooks.page(executed, f"{a.name} and {b.name}, side by side"), encoding="utf-8")
    typer.echo(f"The comparison: {page}")


@app.command("audit")
def audit_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with the released response logs.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list of rows instead of a table.")] = False,
) -> None:
    """Count the released response logs anew: every arm by every rule, beside the logs' own grading and the README.

    `answered` and `correct` are numbers of responses; the interval is Wilson's, 95 %.
    """
    from response_priming import audit

    logs = audit.read(folder)  # before the slow imports: a bad folder is refused at once
    import pandas as pd

    facts, found = arms.published(), audit.count(logs)
    rows = audit.rows(found, facts)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        table = pd.DataFrame(rows).astype({"answered": "Int64", "correct": "Int64"})
        typer.echo(table.to_string(index=False, na_rep="", float_format="{:.4f}".format))
    typer.echo(audit.source(found, facts), err=True)


@app.command()
def parameters(stage: Annotated[str, typer.Argument(help=f"One of {', '.join(params.RUNS)}.")]) -> None:
    """Print the `parameters` cell that a stage's notebook must have."""
    typer.echo(params.parameters_cell(stage))


def main() -> None:
    """Entry point: an `InputError` is one line on standard error and exit code 2."""
    try:
        app()
    except InputError as error:
        typer.echo(f"response-priming: {error}", err=True)
        sys.exit(2)
