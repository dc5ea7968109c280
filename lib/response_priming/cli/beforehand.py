"""The command line before a run: what a profile can find, what it costs, and whether a GPU does what it should."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from response_priming import params, progress
from response_priming.cli.options import ProfileName
from response_priming.errors import InputError

app = typer.Typer()


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
        bool, typer.Option("--calibrate", help="Measure a short sample on this machine, about two minutes.")
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
