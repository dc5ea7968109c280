"""Stage generate: the teacher answers the training problems under one strategy's prefix."""

from pathlib import Path

import pandas as pd

from response_priming import engines, manifest, models, params, priming, problems, responses


def answer(run: params.GenerateRun) -> pd.DataFrame:
    """The strategy's responses, one row a training problem (see `responses`); generated unless they are there already.

    Prompts carry the prefix and worked examples, which come from the validation split; decoding is greedy.
    """
    folder = run.output / "responses" / run.strategy
    recipe = manifest.recipe(
        "generate",
        run.model_dump(exclude={"profile", "n_test", "student", "student_revision", "generate_batch", "data_dir"})
        | {
            "prefix": priming.prefix_of(run.strategy),
            "data": problems.fingerprint(run),
            "model": models.fingerprint(run.teacher, run.teacher_revision),
        },
        [],
        code="generate",
    )
    if not manifest.is_current(folder, recipe):
        with manifest.writing(folder, recipe) as aside:
            _generate(run, aside)
    return responses.read(folder)


def _generate(run: params.GenerateRun, folder: Path) -> None:
    asked = problems.load(run, "train", run.n_train, seed=run.seed)
    engine = _engine(run)
    examples = problems.load(run, "validation", run.worked_examples, seed=run.seed) if run.worked_examples else []
    prefix = priming.prefix_of(run.strategy)
    prompts = [
        priming.encode(
            engine.tokenizer,
            priming.messages(p.question, system_prompt=run.system_prompt, prefix=prefix, examples=examples),
        )
        for p in asked
    ]
    shard: list[tuple[str, int, engines.Response]] = []
    number = 0
    for index, response in engine.respond(prompts, max_tokens=run.response_tokens, top_k=run.top_k):
        shard.append((asked[index].id, len(prompts[index]), response))
        if len(shard) == run.generate_batch:
            responses.write_shard(folder, number, shard)
            number, shard = number + 1, []
    if shard:
        responses.write_shard(folder, number, shard)


def _engine(run: params.GenerateRun) -> engines.Engine:
    return engines.open_engine(
        run.engine,
        engines.Setup(
            run.teacher,
            revision=run.teacher_revision,
            dtype=run.dtype,
            device=run.device,
            batch=run.generate_batch,
        ),
    )
