"""Learning to augment on the tiny model: candidates, selection and the stores of all rows."""

import json

import numpy as np
import pandas as pd
import pytest
import tiny
from numpy.testing import assert_array_equal

from response_priming import engines, generate, models, problems, stats
from response_priming.errors import InputError
from response_priming.methods import base, candidates, examples, l2a
from response_priming.methods.l2a import L2A
from response_priming.methods.leaks import leaks
from response_priming.methods.selection import Trials, chosen, reinforced
from response_priming.problems import Problem

SIZES = {"n_train": 10, "n_test": 20, "train_batch": 2, "micro_batch": 2, "train_tokens": 400, "held_out": 0.2}
FEW = {"targets": 0.4, "episodes": 2, "steps": 1}


@pytest.fixture
def make_row(make_run):
    """Makes the row of L2A, or of one of its controls."""

    def make(name="l2a", *, run=None, teacher=None, **parameters):
        live = {"strategy": "none", "worked_examples": 0, "response_tokens": 6, "top_k": 3} | (teacher or {})
        asked = make_run("generate", **{key: SIZES[key] for key in ("n_train", "n_test")} | live)
        wanted = make_run("distill", arm="none", **SIZES | (run or {}))
        place = wanted.build / "related" / name
        wanted = wanted.placed(place, place).by(base.described("l2a", FEW | parameters))
        return base.method_of(wanted.asking(asked))

    return make


def stored(folder):
    return generate.read(folder, ["problem_id", "question", "text", "tokens"])


# --- candidates ---

TARGETS = [
    Problem("train-0", "Leo has 15 toys and gets 8 more toys. How many toys does Leo have?", "15 + 8 = 23", "23"),
    Problem("train-1", "A shop orders 1,200 nuts and 3.5 eggs. How many?", "1,200 + 3.5 = 1203.5", "1203.5"),
]
SOURCES = [Problem("train-2", "Ana has 4 cups and 6 keys. How many?", "4 + 6 = 10", "10")] * 3
NUMBERS = {"15", "8", "1,200", "3.5", "4", "6"}


def test_numbers_are_drawn_anew_by_the_place_alone_and_the_story_stays():
    few, more = (list(candidates.drafts(TARGETS, SOURCES, count, seed=3)) for count in (8, 12))
    assert [draft.id for draft in few] == [
        *(f"number-{place}" for place in range(4)),
        *(f"span-{place}" for place in range(2)),
        *(f"source-{place}" for place in range(2)),
    ]
    assert [draft for draft in more if draft in few] == few
    for draft, target in zip(few[:4], TARGETS * 2, strict=True):
        assert candidates.NUMBER.sub("N", draft.begun) == candidates.NUMBER.sub("N", target.question)
        assert set(draft.numbers) <= NUMBERS
    assert [draft.begun for draft in few[:4]] != [target.question for target in TARGETS * 2]
    assert [draft.numbers for draft in few[4:]] == [("15", "8"), ("1,200", "3.5"), *[("4", "6")] * 2]
    for draft, target in zip(few[4:6], TARGETS, strict=True):
        assert target.question.startswith(candidates.beginning(target.question))
        assert target.question.startswith(draft.begun)
    assert {draft.begun for draft in few[6:]} <= {"Leo has 4 toys", "A shop orders 4 nuts"}
    assert few != list(candidates.drafts(TARGETS, SOURCES, 8, seed=4))


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("1,200 + 3.5 = 1203.5", True),
        ("3.5 + 1200 = 1203.5\n#### 1203.5", True),
        ("1200 + 3.5 = 1204.5", False),  # arithmetic
        ("15 + 8 = 23", False),  # the answer to another problem
        ("It is 1203.5.", False),
    ],
)
def test_a_response_is_right_if_it_calculates_with_its_own_questions_numbers(response, right):
    assert candidates.sound(TARGETS[1].question, response) == right


class Adder:
    """A teacher that ends a text by what is left of its numbers, and answers a question by their sum."""

    vocabulary = 257

    def __init__(self):
        self.tokenizer, self.read = tiny.tokenizer(), []

    def respond(self, asked, *, max_tokens, top_k, temperature, seed):  # noqa: ARG002
        for place, tokens in enumerate(asked):
            self.read.append(self.tokenizer.decode(tokens))
            question, _, begun = self.read[-1].rpartition("user: ")[2].partition("\nassistant: ")
            found = candidates.numbers(question)
            left = " and ".join(found[len(candidates.numbers(begun)) :])
            added = f"{' + '.join(found)} = {sum(map(int, found))}"
            yield place, response(added if top_k else f" has {left} stars in all?")


def response(text):
    tokens = tiny.tokenizer()(text)["input_ids"]
    uniform = np.full((len(tokens), 3), np.log(1 / 4))
    signal = engines.pack(np.tile(np.arange(3), (len(tokens), 1)), uniform, uniform[:, 0])
    return engines.Response(tokens, text, True, signal, uniform[:, 0].astype(np.float16))


@pytest.fixture
def adder(monkeypatch):
    teacher = Adder()
    monkeypatch.setattr(engines, "open_engine", lambda *_: teacher)
    return teacher


def test_every_kind_is_answered_as_it_is_asked(make_row, adder):
    row = make_row()
    shared = row.prepare()[0]
    found = stored(shared).set_index("problem_id")
    assert list(found.index[:4]) == [f"train-{place}" for place in range(4)]
    kinds = [name.partition("-")[0] for name in found.index[4:]]
    assert set(kinds) == {"number", "span", "source"}
    assert kinds != sorted(kinds)
    for question, text in zip(found["question"], found["text"], strict=True):
        asked = candidates.numbers(question)
        assert text == f"{' + '.join(asked)} = {sum(map(int, asked))}"
        assert candidates.sound(question, text)
        assert any(read.endswith(f"user: {question}\nassistant: ") for read in adder.read)
    counted = base.noted(shared)
    assert counted["spent"]["teacher_read"] == sum(len(tiny.tokenizer()(read)["input_ids"]) for read in adder.read)
    assert counted["spent"]["teacher_generated"] > found["tokens"].map(len).sum()
    assert counted["numbers"]["candidates"] + counted["numbers"]["unusable"] + counted["leaks"] <= 4 * 4
    assert counted["numbers"]["right of all"] == 1


@pytest.mark.usefixtures("adder")
def test_what_the_test_asks_is_left_out_and_counted(make_row, monkeypatch):
    before = make_row()
    found = stored(before.prepare()[0])[4:]
    words, number = found["question"].iloc[0], candidates.numbers(found["question"].iloc[1])
    asked = [
        Problem("test-0", f"{words.upper()}!", "", ""),
        Problem("test-1", f"Who has {' but '.join(number[::-1])}?", f"{' + '.join(number)} = 0", ""),
    ]
    load = problems.load

    def loaded(source, split, *rest, **known):
        return asked if split == "test" else load(source, split, *rest, **known)

    monkeypatch.setattr(problems, "load", loaded)
    again = make_row("again", run={"n_test": 2})
    left = stored(shared := again.prepare()[0])[4:]
    assert 0 < len(left) <= len(found) - 2
    assert base.noted(shared)["leaks"] == len(found) - len(left) + base.noted(before.prepare()[0])["leaks"]
    assert not leaks([Problem(name, asked, text, "") for name, asked, text, *_ in left.to_numpy()], asked)


@pytest.mark.usefixtures("adder")
def test_a_store_with_a_problem_of_the_test_is_refused(make_row, monkeypatch):
    row = make_row()
    shared = row.prepare()[0]
    question = stored(shared)["question"].iloc[-1]
    everything = make_row("all", select="all")
    monkeypatch.setattr(everything.__class__, "_problems", lambda *_: [Problem("test-0", question, "", "")])
    with pytest.raises(InputError, match=r"related/all/responses/none: \w+-\d+: asked in the test, too; allowed"):
        everything.prepare()


# --- the policy ---


def some_features(seed, count=80):
    """Of candidates of which half are corrupted, what shows that in two of five features, in standard deviations."""
    random = np.random.default_rng(seed)
    corrupted = random.permutation(count) < count // 2
    features = random.normal(size=(count, 5)) + np.outer(corrupted, [0, 1.5, 1.5, 0, 0])
    return (features - features.mean(0)) / features.std(0), corrupted


def policy(features, reward, **changes):
    return reinforced(features, reward, **{"episodes": 50, "rate": 0.1, "room": len(features), "seed": 0} | changes)


def test_at_the_start_all_candidates_are_as_likely_to_be_kept():
    features, _ = some_features(0)
    seen = []
    assert_array_equal(policy(features, lambda kept: seen.append(kept) or 0.0, episodes=1).chances, 0.5)
    assert 0 < seen[0].sum() < len(features)


@pytest.mark.parametrize("reward", [0.1, -1 / 3])
def test_a_constant_reward_teaches_nothing(reward):
    found = policy(some_features(0)[0], lambda _: reward)
    assert_array_equal(found.weights, 0)
    assert_array_equal(found.chances, 0.5)


def test_the_baseline_has_earlier_rewards_alone():
    features, rewards = some_features(0)[0], iter([1.0, 3.0])
    kept = []
    found = policy(features, lambda choice: kept.append(choice) or next(rewards), episodes=2)
    assert found.weights == pytest.approx(0.1 * (3 - 1) * ((kept[1] - 0.5) @ features))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_corruption_is_found_by_its_reward(seed):
    features, corrupted = some_features(seed)
    found = policy(features, lambda kept: -corrupted[kept].mean(), seed=seed)
    assert stats.auroc(found.chances[~corrupted], found.chances[corrupted]) > 0.8


def test_candidates_that_an_episode_does_not_come_to_have_no_part_in_it():
    features = np.eye(40)
    kept, rewards = [], iter([0.0, 1.0])
    found = policy(features, lambda choice: kept.append(choice) or next(rewards), episodes=2, room=5)
    last = np.flatnonzero(kept[1])[-1]
    assert [choice.sum() for choice in kept] == [5, 5]
    assert found.weights[: last + 1].all()
    assert not found.weights[last + 1 :].any()


def test_what_is_likelier_than_not_is_kept_or_else_the_likelier_half():
    assert chosen(np.array([0.5, 0.51, 0.2])).tolist() == [False, True, False]
    assert chosen(np.array([0.1, 0.5, 0.2, 0.5])).tolist() == [False, True, False, True]
    assert chosen(np.full(3, 0.5)).tolist() == [True, True, False]


# --- the selection by a student ---


@pytest.fixture
def trials(make_row):
    row = make_row(run={"train_batch": 4, "micro_batch": 4})
    shared = row.prepare()[0]
    return Trials(row, row.run.placed(row.run.output, shared.parents[1]))


def test_an_episode_begins_with_the_same_student_and_depends_on_its_choice_alone(trials):
    places = range(4, len(trials.examples))
    one, other = (np.arange(len(places)) % 2 == rest for rest in (0, 1))
    gains = [trials.gain(trials.examples, places, kept, steps=3) for kept in (one, other, one)]
    assert gains[0] == gains[2] != gains[1]
    assert trials.loss() == trials.before
    assert trials.gain(trials.examples, places, one & other, steps=3) == 0


def test_neither_gain_nor_features_depend_on_the_micro_batch(trials):
    places, kept = range(4, len(trials.examples)), np.ones(len(trials.examples) - 4, bool)

    def found():
        gain = trials.gain(trials.examples, places, kept, steps=2)
        return gain, *trials.read(trials.examples, places).ravel()

    whole = found()
    trials.run = trials.run.model_copy(update={"micro_batch": 1})
    assert found() == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_the_selection_needs_no_test_file(make_row, tmp_path, monkeypatch):
    for split in ("train", "test"):
        made = problems.procedural(split, 10, seed=0, largest=20, two_step_share=0)
        rows = [{"question": problem.question, "answer": problem.solution} for problem in made]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    local = {"dataset": "local", "data_dir": str(tmp_path), "allow_leaked": True, "n_test": 10}
    monkeypatch.setattr(problems, "fingerprint", lambda _: "these files")
    row = make_row(run=local, teacher=local)
    shared, selection = row.prepare()
    (tmp_path / "test.jsonl").unlink()
    (again := tmp_path / "again").mkdir()
    row._learn(row.run.placed(row.run.output, shared.parents[1]), again)
    for table in ("chosen.parquet", "episodes.parquet"):
        assert pd.read_parquet(again / table).equals(pd.read_parquet(selection / table))


# --- the rows ---


def test_rows_share_candidates_and_differ_in_what_of_them_trains(make_row, monkeypatch):
    learnt = make_row()
    shared, selection = learnt.prepare()
    monkeypatch.setattr(engines, "open_engine", lambda *_: pytest.fail("asked again"))
    changes = [{}, *L2A.controls.values()]
    rows = {changed.get("select", "learnt"): make_row(f"l2a-{n}", **changed) for n, changed in enumerate(changes)}
    read = {select: row.prepare() for select, row in rows.items()}
    assert all(read[select] == [shared, selection] for select in ("learnt", "random", "shuffled"))
    assert read["all"] == read["none"] == [shared]
    shards = {select: (row.run.store / generate.shard_name(0)).read_bytes() for select, row in rows.items()}
    assert {*shards.values()} == {(shared / generate.shard_name(0)).read_bytes()}
    kept = {select: generate.read(row.run.store)["kept"].to_numpy() for select, row in rows.items()}
    assert all(one[:4].all() for one in kept.values())
    assert kept["all"].all()
    assert generate.read(shared)["kept"].all()
    assert not kept["none"][4:].any()
    assert 4 < kept["learnt"].sum() == kept["random"].sum() < len(kept["all"])
    dealt = pd.read_parquet(selection / "episodes.parquet")["reward"]
    assert base.noted(selection)["numbers"]["reward's deviation"] == pytest.approx(dealt.std(ddof=0))
    for select, row in rows.items():
        asked = examples.prepare(row.run, models.tokenizer(row.run.student)).items
        assert len(asked) == kept[select].sum()
        numbers = base.noted(row.run.store)
        assert numbers["spent"] == {}
        assert numbers["numbers"]["kept"] == pytest.approx(kept[select][4:].mean())


def test_the_policy_with_shuffled_rewards_has_each_of_them_for_another_choice(make_row, monkeypatch):
    row, other = make_row(episodes=6), make_row("other", episodes=6, select="shuffled")
    selection = row.prepare()[1]
    rewards = pd.read_parquet(selection / "episodes.parquet")["reward"].tolist()
    table, given = pd.read_parquet(selection / "chosen.parquet"), []

    def noting(features, reward, **changes):
        found = reinforced(features, reward, **changes)
        given.append(found.rewards)
        return found

    monkeypatch.setattr(l2a, "reinforced", noting)
    other.prepare()
    assert sorted(given[0]) == sorted(rewards)
    assert all(one != two for one, two in zip(given[0], rewards, strict=True) if rewards.count(one) == 1)
    turn = iter(rewards)
    assert_array_equal(
        row._policy(table.drop(columns="chance").to_numpy(), lambda _: next(turn)).chances, table["chance"]
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"targets": 9}, r"method l2a: targets = 9: there are 10 train problems, of which 2 are held out; allowed: up"),
        ({"run": {"held_out": 0.0}}, r"distill.held_out = 0.0: none of 10 train problems to measure rewards on"),
        ({"run": {"hard_labels": "gold"}}, r"distill.hard_labels = 'gold': candidates have no solutions; allowed: 'r"),
        ({"run": {"alignment": "published"}}, r"distill.alignment = 'published': candidates have no solutions"),
    ],
)
def test_what_it_cannot_do_is_one_line(make_row, changed, message):
    with pytest.raises(InputError, match=message):
        make_row(**changed).prepare()


@pytest.mark.parametrize(("targets", "count"), [(0.25, 2), (0.01, 1), (1, 1), (7, 7)])
def test_targets_are_a_share_or_a_number(make_row, targets, count):
    assert make_row(targets=targets).count == count
