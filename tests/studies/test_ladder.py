import itertools

import pytest

from response_priming import arms, models, params
from response_priming.distill import training as distill
from response_priming.errors import InputError
from response_priming.generate import prompt_signals, teacher
from response_priming.params import sections
from response_priming.studies import figures, ladder

SIZES = {"n_train": 4, "train_steps": 1, "train_batch": 2, "micro_batch": 2, "train_tokens": 400, "warmup_steps": 0}
SMALL = {"ladder_test": 3, "answer_tokens": 3, "ladder_strategy": "teacher", "learning_rate": 0.01, "lora_dropout": 0.0}


@pytest.fixture
def run(make_run):
    return make_run("ladder", **SIZES, **SMALL)


@pytest.fixture
def stores(make_run):
    """What the teacher gave under the ladder's strategy."""
    small = {"strategy": "teacher", "n_train": 4, "top_k": 3}
    teacher.respond(make_run("generate", **small, worked_examples=0, response_tokens=4))
    prompt_signals.score(make_run("prompt-signals", **small))


def distills(run):
    """The training of every rung as the distill stage would get it."""
    usual = params.DistillRun.model_fields
    return {
        name: params.DistillRun.model_validate(
            {key: value for key, value in (run.model_dump() | values).items() if key in usual}
        )
        for name, values in ladder.rungs(run).items()
    }


def test_the_ladder_starts_at_the_released_training(run):
    first = distills(run)["released"].model_dump()
    assert {key: first[key] for key in sections.RELEASED_TRAINING} == sections.RELEASED_TRAINING
    assert (first["learning_rate"], first["optimizer"], first["repairs"]) == (5.0e-6, "sgd", [])


def test_the_ladder_ends_at_the_profiles_own_training_with_nothing_left_to_repair(run):
    last = list(distills(run).values())[-1]
    own = run.model_dump() | {"alignment": "published", "repairs": list(sections.REPAIRS)}
    assert last.repaired == frozenset(sections.REPAIRS)
    assert {key: getattr(last, key) for key in sections.Distill.model_fields} == {
        key: own[key] for key in sections.Distill.model_fields
    }


def test_each_rung_adds_one_repair(run):
    trainings = list(distills(run).items())
    for (_, before), (name, after) in itertools.pairwise(trainings):
        changed = {key for key in sections.Distill.model_fields if getattr(before, key) != getattr(after, key)}
        assert changed
        if name in sections.REPAIRS:
            assert changed == {"repairs"}
            assert after.repaired - before.repaired == {name}
        else:
            assert changed <= set(ladder.TRAINING[name])


def test_every_rung_sees_as_many_examples(run):
    assert {training.train_steps * training.train_batch for training in distills(run).values()} == {2}


def test_every_rung_has_a_title(run):
    assert set(ladder.TITLES) == {arms.UNDISTILLED, *ladder.rungs(run)}


@pytest.mark.usefixtures("stores")
def test_each_rung_is_trained_and_scored_in_a_folder_of_its_own_and_only_once(run, monkeypatch):
    names = [arms.UNDISTILLED, *ladder.rungs(run)]
    table = ladder.climb(run)
    assert table["rung"].tolist() == names
    assert (table["n"] == 3).all()
    for name in ("accuracy", "finished"):
        assert (table[f"{name}_low"] <= table[name] + 1e-9).all()
        assert (table[name] <= table[f"{name}_high"] + 1e-9).all()
    assert {path.name for path in (run.output / "ladder").iterdir()} == set(names)
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("climbed again"))
    assert ladder.climb(run).equals(table)
    assert len(figures.ladder_figure(table).axes) == 2
    assert "AdamW" in figures.shown_ladder(table).to_html()


@pytest.mark.usefixtures("stores")
def test_a_stopped_ladder_goes_on_where_it_stopped(run, monkeypatch):
    trained, train = [], distill._train

    def stop_before_the_fourth(job, *rest):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(job.run.repairs)
        train(job, *rest)

    monkeypatch.setattr(distill, "_train", stop_before_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        ladder.climb(run)
    trained.clear()
    with pytest.raises(KeyboardInterrupt):
        ladder.climb(run)
    # The three trainings before are there: what comes next is the last repair of the training, and two misalignments.
    assert trained == [[], ["pairing"], ["pairing", "prefix-offset"]]


def test_without_signals_over_prompts_it_is_one_line(run, make_run):
    teacher.respond(make_run("generate", strategy="teacher", n_train=4, worked_examples=0, response_tokens=4, top_k=3))
    with pytest.raises(InputError, match="prompt-signals/teacher: not made yet"):
        ladder.climb(run)
