"""The doctor: ten known faults are put into real trainings of a tiny model, and it must name them from what they wrote.

A fault is there while the run is made, at the place where it would be, and gone when the doctor looks.
"""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch

from response_priming import arms, artifacts, engines, generate, models, params, paths, problems, prompts, report
from response_priming.distill import trainer, training
from response_priming.evaluate import answers
from response_priming.generate import teacher
from response_priming.methods import examples, losses
from response_priming.studies import doctor, figures, ladder

SIZES = {
    **{"n_train": 10, "n_test": 8, "held_out": 0.2, "worked_examples": 0, "train_tokens": 400, "warmup_steps": 0},
    **{"train_steps": 4, "train_batch": 4, "micro_batch": 2, "learning_rate": 0.01, "evaluate_every": 4},
    **{"response_tokens": 60, "answer_tokens": 24, "top_k": 8, "generate_batch": 8, "seeds": [0]},
}
LIMITS = {"", "weak-teacher", "outside"}


@pytest.fixture(scope="module")
def able(tmp_path_factory):
    """Two moments of a tiny model that learns to solve the train problems, primed or not: student, and its teacher."""
    source, tokenizer, model = params.load("laptop").problems, tiny.tokenizer(), tiny.llama().train()
    optimizer, texts = torch.optim.AdamW(model.parameters(), lr=0.01), []
    system, shown = params.Model().system_prompt, problems.load(source, "validation", 1, seed=0)
    for problem in problems.load(source, "train", SIZES["n_train"], seed=0):
        for seen in ({}, {"prefix": prompts.prefix_of("teacher")}, {"examples": shown}):
            chat = prompts.messages(problem.question, system_prompt=system, **seen)
            answer = prompts.encode_response(tokenizer, problem.worked)
            texts.append((prompts.encode(tokenizer, chat), answer))
    width = max(len(prompt) + len(answer) for prompt, answer in texts)
    ids = torch.tensor([[*p, *a, *[0] * (width - len(p) - len(a))] for p, a in texts])
    labels = torch.tensor([[*[-100] * len(p), *a, *[-100] * (width - len(p) - len(a))] for p, a in texts])
    folders = {}
    for step in range(1, 91):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for name in [name for name, last in (("student", 40), ("teacher", 90)) if step == last]:
            print(name, loss.item())
            folders[name] = tiny.save_model(tmp_path_factory.mktemp(name))
            model.save_pretrained(folders[name])
    return {name: str(folder) for name, folder in folders.items()}


@pytest.fixture
def pipeline(make_run, able):
    """Makes a run of one arm; `fault` is put into the stages that it names, and `after` changes what generate wrote."""

    def make(arm="none", *, fault=None, stages=(), after=None, **changes):
        values = SIZES | able | changes | {"arms": [arm]}
        whole = make_run("doctor", doctor_rungs=False, **values)

        def run(stage, **item):
            return params.RUNS[stage].of(whole.model_dump() | item)

        def execute(stage, do):
            with pytest.MonkeyPatch.context() as patch:
                if stage in stages:
                    fault(patch)
                do()

        if arm != "fine-tuned":
            execute("generate", lambda: teacher.respond(run("generate", strategy=arm)))
            if after:
                after(whole.build / "responses" / arm)
        execute("distill", lambda: training.train(run("distill", arm=arm)))
        execute("evaluate", lambda: answers.answer(run("evaluate", arm=arm)))
        return whole

    return make


def found(run):
    checks, _ = doctor.examine(run)
    pd.set_option("display.width", 200)
    print(checks.to_string())
    assert not checks.drop(columns=["value", "finding"]).isna().any(axis=None)
    return set(checks["finding"]) - LIMITS


# --- healthy runs ---

HEALTHY = {
    "as it is": {},
    "another training seed": {"seeds": [7]},
    "another strategy": {"arm": "teacher"},
    "fine-tuned": {"arm": "fine-tuned"},
    "solutions as hard labels": {"hard_labels": "gold"},
    "reverse KL at a temperature": {"divergence": "reverse-kl", "kd_temperature": 2.0, "alpha": 0.2},
    "JSD of the whole vocabulary": {"divergence": "jsd", "top_k": "all", "micro_batch": 1},
    "skewed KL, all weights": {"divergence": "skew-kl", "adapter": "full", "learning_rate": 0.001},
    "text alone, no validation": {"signal": "text", "held_out": 0.0},
    "worked examples, dropout": {"worked_examples": 1, "lora_dropout": 0.2, "micro_batch": 4},
}


@pytest.mark.parametrize("changes", HEALTHY.values(), ids=HEALTHY.keys())
def test_a_healthy_run_has_no_fault(pipeline, changes):
    assert found(pipeline(**changes)) == set()


# --- faults ---


def changed_examples(change):
    """A fault in the training examples."""

    def fault(patch):
        plain = examples.Examples.__getitem__
        patch.setattr(examples.Examples, "__getitem__", lambda self, index: change(dict(plain(self, index))))

    return fault


def shifted(example):
    return example | {"labels": [*example["labels"][1:], losses.IGNORED]}


def unmasked(example):
    first, read = example["positions"][0], example["input_ids"]
    changed = {"positions": [*range(len(read))], "labels": [*read[1:], example["labels"][-1]]}
    if "scored" in example:
        rows = [0] * first + [*range(len(example["scored"]))]
        changed |= {key: example[key][rows] for key in generate.SIGNAL}
        changed["scored"] = [False] * first + example["scored"]
    return example | changed


def masks_padding_by_its_id(patch):
    plain = trainer.collate

    def collate(batch, pad):
        made = plain(batch, pad)
        return made | {"labels": made["labels"].masked_fill(made["labels"] == pad, losses.IGNORED)}

    patch.setattr(trainer, "collate", collate)


def asks_without_the_template(patch):
    patch.setattr(prompts, "render", lambda _, chat, *__: chat[-1]["content"])


def asks_without_the_system_prompt(patch):
    plain = prompts.messages
    patch.setattr(prompts, "messages", lambda question, **said: plain(question, **said | {"system_prompt": ""}))


def has_another_vocabulary(store):
    """The tokens of all responses but the first are numbered otherwise."""
    (shard, *_) = sorted(store.glob("shard-*.parquet"))
    table, recipe = pq.read_table(shard), artifacts.read(store)["recipe"]
    rows = table["tokens"].to_pylist()
    rows[1:] = [[token and token % 256 + 1 for token in row] for row in rows[1:]]
    place = table.column_names.index("tokens")
    table = table.set_column(place, "tokens", pa.array(rows, pa.list_(pa.int32())))
    rewrite(store, shard.name, table, recipe)


def rewrite(store, name, table, recipe):
    kept = {file.name: file.read_bytes() for file in store.glob("*.parquet") if file.name != name}
    with artifacts.writing(store, recipe) as aside:
        pq.write_table(table, aside / name)
        for other, content in kept.items():
            (aside / other).write_bytes(content)


def has_responses_to_other_problems(store):
    (shard, *_) = sorted(store.glob("shard-*.parquet"))
    table, recipe = pq.read_table(shard), artifacts.read(store)["recipe"]
    names = table["problem_id"].to_pylist()
    rewrite(store, shard.name, table.set_column(0, "problem_id", pa.array(names[1:] + names[:1])), recipe)


def softens_the_teacher_alone(patch):
    plain = losses.terms

    def terms(logits, picked, targets, objective):
        hard, _ = plain(logits, picked, targets, objective)
        return hard, plain(logits * objective.kd_temperature, picked, targets, objective)[1]

    patch.setattr(losses, "terms", terms)


def loads_no_adapter(patch):
    patch.setattr(models, "load_adapted", lambda name, _, **options: models.load(name, **options))


def takes_means_of_micro_batches(patch):
    plain = trainer.DistillTrainer.compute_loss

    def compute_loss(self, model, inputs, **_):
        own = [(inputs["labels"] != losses.IGNORED).sum(), inputs["scored"].sum()]
        return plain(self, model, inputs, num_items_in_batch=torch.stack(own) * self.args.gradient_accumulation_steps)

    patch.setattr(trainer.DistillTrainer, "compute_loss", compute_loss)


def divides_by_the_micro_batches_again(patch):
    plain = trainer.DistillTrainer.training_step
    patch.setattr(
        trainer.DistillTrainer,
        "training_step",
        lambda self, *some: setattr(self, "loss_is_scaled_for_ga", False) or plain(self, *some),
    )


def deals_responses(patch):
    plain = examples.Examples.__init__

    def init(self, *some):
        plain(self, *some)
        if self.answered is not None:
            self.answer_of = self.signal_of = examples.deal(len(self), 0)

    patch.setattr(examples.Examples, "__init__", init)


FAULTS = {
    "labels": {"fault": changed_examples(shifted), "stages": ["distill"]},
    "prompt": {"fault": changed_examples(unmasked), "stages": ["distill"]},
    "closing": {"fault": masks_padding_by_its_id, "stages": ["distill"]},
    "template": {"fault": asks_without_the_template, "stages": ["evaluate"]},
    "vocabulary": {"after": has_another_vocabulary},
    "truncated": {"response_tokens": 6},
    "temperature": {"fault": softens_the_teacher_alone, "stages": ["distill"], "kd_temperature": 2.0},
    "adapter": {"fault": loads_no_adapter, "stages": ["evaluate"]},
    "accumulation": {"fault": takes_means_of_micro_batches, "stages": ["distill"], "micro_batch": 1},
    "pairs": {"fault": deals_responses, "stages": ["distill"]},
}
MORE = {
    "template": {"fault": asks_without_the_system_prompt, "stages": ["evaluate"]},
    "accumulation": {"fault": divides_by_the_micro_batches_again, "stages": ["distill"]},
    "pairs": {"after": has_responses_to_other_problems},
}


@pytest.mark.parametrize(("name", "changes"), [*FAULTS.items(), *MORE.items()])
def test_a_fault_is_named_and_no_other(pipeline, name, changes):
    run = pipeline(**changes)
    assert found(run) == {name}


# --- what is said ---

WORDS = arms.read_yaml(paths.REPORT / "doctor.yaml")


def test_every_fault_has_a_sentence_and_a_remedy():
    assert {*FAULTS, "loss", "stops", "reloaded", "answers", "weak-teacher", "outside"} == set(WORDS["findings"])
    rows = [doctor.Look("tokens", 0.5, 0.9, 1, name) for name in WORDS["findings"]]
    said = report.findings(pd.DataFrame(rows).assign(arm="teacher"))
    assert set(said["title"]) == {"KD, Teacher"}
    for column in ("wrong", "change"):
        assert said[column].str.match(r"[A-Z0-9].*\.$").all()
        assert not said[column].str.contains("{", regex=False).any()


def test_the_tables_show_every_number_and_star_what_is_not_healthy(pipeline):
    run = pipeline(response_tokens=6, seeds=[0, 3])
    checks, rungs = doctor.examine(run)
    assert rungs.empty
    assert set(checks["check"]) <= set(WORDS["checks"])
    shown = figures.shown_checks(checks).to_html()
    assert shown.count("KD, no prompt, seed") == 2
    assert "100% *" in shown
    assert "from them the student learns not to end" in figures.shown_findings(checks).to_html()


def test_an_older_store_without_the_likelihood_of_its_tokens_is_no_fault(pipeline):
    def without(store):
        (shard, *_) = sorted(store.glob("shard-*.parquet"))
        table = pq.read_table(shard)
        rewrite(store, shard.name, table.drop_columns("token_logprobs"), artifacts.read(store)["recipe"])

    run = pipeline(after=without, n_train=8)
    assert found(run) == set()
    checks = doctor.examine(run)[0].set_index("check")
    assert pd.isna(checks.loc["stored-likelihood", "value"])


def test_arms_that_are_faulty_on_purpose_are_not_looked_at(pipeline, monkeypatch):
    run = pipeline().model_copy(update={"arms": ["undistilled", "shuffled", "published-none"]})
    monkeypatch.setattr(type(run), "folders", [params.Folder(run.build / "doctor", [], [], {}, by_model=False)])
    assert set(doctor.examine(run)[0]["arm"]) == {""}


# --- from KD to fine-tuning ---


def test_every_rung_keeps_the_changes_of_those_before_it(pipeline, monkeypatch):
    run = pipeline(worked_examples=0)
    asked = []
    opened = engines.open_engine
    monkeypatch.setattr(engines, "open_engine", lambda *some: asked.append(some) or opened(*some))
    table = ladder.close(run.model_copy(update={"doctor_examples": 1}))
    assert table["rung"].tolist() == list(ladder.CLOSING)
    assert table["points"].iloc[1:].tolist() == pytest.approx((100 * table["accuracy"].diff()).iloc[1:].tolist())
    # Of the teacher, only the rung with more examples is new; the others are engines of students.
    assert len([setup for _, setup in asked if setup.student is None]) == 1
    # The first rung is the arm itself.
    places = {name: run.build / "closing" / name for name in ladder.CLOSING} | {"kd": run.build}
    made = {
        name: artifacts.read(place / "students" / ("fine-tuned" if name == "fine-tuned" else "none") / "seed-0")[
            "recipe"
        ]
        for name, place in places.items()
    }
    assert not (run.build / "closing" / "kd").exists()
    stores = {name: recipe["inputs"] for name, recipe in made.items()}
    assert stores["gold"] == stores["examples"] != stores["right"] != stores["kd"]
    assert [made[name]["parameters"]["hard_labels"] for name in ladder.CLOSING] == [
        *["response"] * 3,
        "gold",
        "response",
    ]
    answered = generate.read(run.build / "closing" / "examples" / "responses" / "none")
    assert answered["prompt_tokens"].min() > generate.read(run.build / "responses" / "none")["prompt_tokens"].max()
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("climbed again"))
    assert (
        ladder.close(run.model_copy(update={"doctor_examples": 1}))
        .drop(columns="seconds")
        .equals(table.drop(columns="seconds"))
    )


def test_a_rung_that_nothing_right_is_left_for_is_left_out(pipeline):
    run = pipeline(response_tokens=1, doctor_examples=1)
    assert ladder.close(run)["rung"].tolist() == ["kd", "fine-tuned"]
