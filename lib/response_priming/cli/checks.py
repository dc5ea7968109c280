"""What `check` finds before anything runs: all that would fail once the teacher has answered."""

from typing import TYPE_CHECKING, Any, cast

from response_priming import arms, paths, problems
from response_priming.errors import InputError

if TYPE_CHECKING:
    from response_priming import params

# Problems whose prompts are measured, the longest of a split; and of a teacher's, which are measured by strategy.
MANY, FEW = 200, 20
Found = dict[problems.Split, list[problems.Problem]]


def check_problems(loaded: "params.Profile") -> Found:
    """The longest problems of each split; `InputError` where there are too few for what is made of them, or no logs."""
    if loaded.audit.logs_dir:
        from response_priming import audit

        logs = audit.read(paths.given(loaded.audit.logs_dir))
        if loaded.audit.disputed:
            audit.read_disputed(paths.given(loaded.audit.disputed), len(next(iter(logs.values()))))
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
    problems.require_unleaked(loaded.problems)
    if shared := {problem.id for problem in found["train"]} & {problem.id for problem in found["validation"]}:
        raise InputError(
            f"problems.n_train = {train}: leaves too few for {worked} worked examples; "
            f"{len(shared)} of them would be training problems"
        )
    longest = {split: sorted(all_, key=lambda one: len(one.question + one.worked)) for split, all_ in found.items()}
    return {split: ordered[-MANY:] for split, ordered in longest.items()} | {"validation": found["validation"]}


def check_student(loaded: "params.Profile", found: Found) -> None:
    """`InputError` where the student lacks what is trained or looked at, or a prompt is too long for it."""
    from response_priming import attention, engines, methods, models, prompts

    about, trainings = loaded.model, {arm: loaded.distill_of(arm) for arm in loaded.trained}
    name, revision = about.student, about.student_revision
    quantization = "nf4" if any(one.adapter == "qlora" for one in trainings.values()) else "none"
    setup = engines.Setup(name, revision, about.dtype, about.device, quantization, **loaded.cluster.model_dump())
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


def check_teacher(loaded: "params.Profile", found: Found) -> None:
    """`InputError` where the engine cannot run the teacher, or no student can learn from what it gives."""
    from response_priming import engines, generate, models, prompts

    run = cast("params.GenerateRun", loaded.run("generate", strategy=arms.UNPRIMED))
    engines.require(run.engine).check(engines.teacher_of(run))
    teacher, student = (run.teacher, run.teacher_revision), (run.student, run.student_revision)
    config, reader = models.config(*teacher), models.tokenizer(*teacher)
    given = models.vocabulary(reader, config)
    if run.engine != "server":
        models.require_weights(*teacher)
    if run.top_k != "all" and run.top_k > given:
        raise InputError(f"generate.top_k = {run.top_k}: the teacher has {given} tokens; allowed: as many")
    taught = [loaded.distill_of(arm) for arm in loaded.trained if arm != arms.FINE_TUNED]
    if any(training.signal == "tokens" for training in taught):
        generate.check_tokens(run.model_copy(update={"signal": "tokens"}))
        learnt = models.vocabulary(models.tokenizer(*student), models.config(*student))
        if given > learnt or (run.top_k == "all" and given < learnt):
            raise InputError(
                f"generate.teacher = {run.teacher!r}: {given} of {len(reader)} tokens are among its outputs, and "
                f"{learnt} among the student's; allowed: as many"
            )
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
        _check_budget("generate.response_tokens", run.response_tokens, asked, config.get_text_config())


def _check_budget(parameter: str, budget: int, asked: list[list[int]], config: Any) -> None:
    """`InputError` where prompts and so many new tokens exceed a model's context."""
    from response_priming import engines

    try:
        engines.check_context(asked, budget, getattr(config, "max_position_embeddings", None))
    except InputError as error:
        raise InputError(f"{parameter} = {budget}: {error}") from None
