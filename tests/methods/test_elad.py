import itertools
import math

import numpy as np
import pytest
import tiny
from tests.methods.conftest import PROBLEMS

from response_priming import artifacts, distill, engines, generate, problems
from response_priming.errors import InputError
from response_priming.methods import base, elad, examples, steps
from response_priming.methods.elad import Answer, Elad

TOKENIZER = tiny.tokenizer()
RIGHT, WRONG, OFF = "3 + 4 = 7\n#### 7", "3 + 4 = 8\n#### 8", "3 + 4 = 7\n7 + 5 = 12\n#### 11"
SIZES = {"n_train": 8, "held_out": 0.25, "train_steps": 1, "train_batch": 2, "micro_batch": 2, "train_tokens": 400}


def tokens_of(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def response(text):
    return engines.Response([*tokens_of(text), 0], text, finished=True)


def answer(text):
    given = response(text)
    return Answer(given, steps.begins(given.tokens, lambda some: elad.text_of(TOKENIZER, some)))


def problem(number=0, right="7"):
    return problems.Problem(
        f"train-{number}", "Ann has 3 pens and gets 4. How many?", f"3 + 4 = 7\n#### {right}", right
    )


class Says(engines.Engine):
    """An engine that goes on with what `say` makes of the number of the prompt and its text."""

    tokenizer, context, vocabulary = TOKENIZER, None, len(tiny.VOCABULARY)

    def __init__(self, say):
        self.say, self.read = say, []

    @classmethod
    def open(cls, setup):
        raise AssertionError(setup)

    def describe(self):
        return {}

    def fulfil(self, request):
        self.read += [TOKENIZER.decode(prompt) for prompt in request.prompts]
        # The last one is the first to end.
        yield from reversed([(place, response(self.say(place, self.read[place]))) for place in range(len(self.read))])

    def score(self, sequences, *, top_k):
        raise AssertionError(sequences, top_k)


@pytest.fixture
def method(make_method):
    return make_method(Elad, {"n_train": PROBLEMS})


# --- the choice ---


def test_equal_answers_have_no_uncertainty_and_different_ones_that_of_an_even_draw(method):
    answers, asked = [answer(OFF), answer(RIGHT), answer("no steps")], [problem(number) for number in range(3)]
    assert [len(one.begins) for one in answers] == [3, 2, 1]
    assert method.uncertainty(Says(lambda *_: "\n#### 5"), asked, answers) == [0, 0, 0]
    engine = Says(lambda place, _: f"\n#### {place % 4}")
    assert method.uncertainty(engine, asked, answers) == pytest.approx([math.log(4)] * 3)
    assert len(engine.read) == 4 * (3 + 2 + 1)
    # Every sample goes on behind the steps before it, and 7 is 7.0.
    assert [text.rpartition("assistant: ")[2] for text in engine.read[:12:4]] == [
        "",
        "3 + 4 = 7\n",
        "3 + 4 = 7\n7 + 5 = 12\n",
    ]
    assert method.uncertainty(Says(lambda place, _: ("\n#### 7", "\n#### 7.0")[place % 2]), asked, answers) == [0, 0, 0]
    # Half of the samples say nothing: ln 2 where there is nothing before them, and else the number there.
    half = method.uncertainty(Says(lambda place, _: ("", "\n#### 1")[place % 2]), asked[2:], answers[2:])
    assert half == pytest.approx([math.log(2)])


def test_a_round_takes_the_highest_doubts_and_a_draw_decides_between_equal_ones(make_method):
    asked = [problem(number) for number in range(30)]
    some = make_method(Elad, run={"n_train": 36, "held_out": 1 / 6}, budget=0.3)
    assert some.count == 3
    assert [one.id for one in some.first(asked, [-number % 11 for number in range(30)])] == [
        "train-1",
        "train-12",
        "train-23",
    ]
    drawn = [some.first(asked, [0.0] * 30) for _ in range(2)]
    assert drawn[0] == drawn[1]
    # In another round, and with another seed, others; and no place of the split is preferred.
    other = make_method(Elad, run={"n_train": 36, "held_out": 1 / 6, "seed": 1}, budget=0.3)
    later = make_method(Elad, run={"n_train": 36, "held_out": 1 / 6}, budget=0.3, round=2)
    assert len({tuple(one.id for one in each.first(asked, [0.0] * 30)) for each in (some, other, later)}) == 3
    places = [int(one.id[6:]) for seed in range(200) for one in with_seed(some, seed).first(asked, [0.0] * 30)]
    assert abs(np.mean(places) - 14.5) < 1.5


def with_seed(method, seed):
    return Elad(method.run.model_copy(update={"seed": seed}), **method.model_dump())


def test_how_well_doubts_tell_wrong_answers(method):
    asked = [problem(0), problem(1), *problems.procedural("train", 6, seed=0, largest=20, two_step_share=1)]
    found = method.told(asked, [3, 1, 0, 0, 1, 2, 2, 0], [False, True, True, True, True, False, False, True])
    assert found == {"AUROC": 1, "AUROC two-step": 1}
    assert method.told(asked[:2], [1, 1], [False, True]) == {"AUROC": 0.5}
    assert method.told(asked, [0] * 8, [True] * 8) == {}


# --- the correction ---


def test_a_correction_keeps_the_steps_before_the_first_wrong_one_token_for_token(method):
    given = answer("3 + 4 = 7\n7 + 5 = 13\n13 + 1 = 14\n#### 14")
    teacher = Says(lambda *_: "7 + 5 = 12\n#### 12")
    texts, reached = method.corrected(teacher, [problem(right="12")], [given])
    kept = tokens_of("3 + 4 = 7\n")
    assert texts[0].tokens[: len(kept)] == kept == given.response.tokens[: len(kept)]
    assert texts[0].text == "3 + 4 = 7\n7 + 5 = 12\n#### 12"
    assert all(steps.check(texts[0].text))
    assert teacher.read[0].endswith("assistant: 3 + 4 = 7\n")
    assert reached == [True]
    assert method.spent["teacher_generated"] == len(tokens_of("7 + 5 = 12\n#### 12")) + 1


@pytest.mark.parametrize(
    ("reaching", "kept"), [((), 0), ((0,), 0), ((1,), 1), ((0, 1), 1), ((0, 1, 2), 2), ((0, 2), 0)]
)
def test_where_the_answer_alone_is_wrong_the_steps_that_still_lead_to_the_right_one_are_kept(method, reaching, kept):
    given = answer(OFF)
    texts, reached = method.corrected(
        Says(lambda place, _: "so it is 7" if place in reaching else "so it is 6"), [problem()], [given]
    )
    assert texts[0].tokens[: given.begins[kept]] == given.response.tokens[: given.begins[kept]]
    assert texts[0].text == OFF[: given.begins[kept]] + ("so it is 7" if kept in reaching else "so it is 6")
    assert reached == [kept in reaching]


def test_of_right_answers_no_token_is_written_by_the_teacher(method):
    given = [answer(RIGHT), answer("It is 7.")]
    teacher = Says(lambda *_: pytest.fail("asked"))
    texts, reached = method.corrected(teacher, [problem(0), problem(1)], given)
    assert texts == [one.response for one in given]
    assert reached == []
    assert not method.spent["teacher_generated"]


def test_without_correction_the_teacher_writes_all(make_method):
    plain = make_method(Elad, correct=False)
    texts, reached = plain.corrected(Says(lambda *_: "#### 7"), [problem(), problem()], [answer(RIGHT), answer(WRONG)])
    assert [one.text for one in texts] == ["#### 7", "#### 7"]
    assert reached == [True, True]


# --- the store ---


def by_rounds(make_run, live=None, **parameters):
    """The trainings of all rounds, each with its store; but for the last one's, their students are trained."""
    asked = {"worked_examples": 0, "response_tokens": 5, "top_k": 3, "n_train": 8}
    teacher = make_run("generate", **asked | (live or {}))
    own, earlier, found = Elad(**parameters), None, []
    for more in [*own.rounds, {}]:
        described = base.described("elad", parameters | more)
        run = make_run("distill", arm="none", **SIZES).by(described).asking(teacher)
        place = run.build / f"round-{len(found) + 1}"
        run = (run.after(earlier) if earlier else run).placed(place, place)
        base.method_of(run).prepare()
        if more:
            distill.train(run)
        earlier = run
        found.append(run)
    return found


def test_rounds_take_equally_many_problems_and_none_twice_and_the_store_is_an_ordinary_one(make_run, monkeypatch):
    monkeypatch.setattr("response_priming.methods.elad.leaks", lambda held, _: held[:2])
    runs = by_rounds(make_run)
    stores = [generate.read(run.store) for run in runs]
    assert [len(store) for store in stores] == [1, 2, 3]
    pool = [one.id for one in problems.load(runs[0], "train", 8, seed=0)][:6]
    assert len({*stores[-1]["problem_id"]}) == 3
    assert {*stores[-1]["problem_id"]} <= {*pool}
    for earlier, later in itertools.pairwise(stores):
        assert later[: len(earlier)].equals(earlier)
    data = examples.prepare(runs[-1], TOKENIZER)
    assert len(data.items) == 3
    assert all(data.items[0][0]["scored"])
    made = artifacts.read(runs[-1].store)["recipe"]
    asked = artifacts.recipe(runs[-1].live, runs[-1].live.folders[0])["parameters"]
    assert all(made["parameters"][key] == asked[key] for key in examples.SHARED)
    assert {"round-2/responses/none", "round-2/students/none/seed-0"} == {*made["inputs"]}
    noted = base.noted(runs[-1].store)
    assert noted["leaks"] == 2
    assert noted["spent"]["student_generated"] > 0
    # What failed took its place: the random model reaches nothing.
    assert noted["numbers"]["corrections right"] == 0
    # Made once.
    monkeypatch.setattr(engines, "open_engine", lambda *_: pytest.fail("made again"))
    base.method_of(runs[-1]).prepare()


def test_the_teachers_distributions_are_those_behind_its_own_prompt_at_kept_tokens_too(make_run):
    run = by_rounds(make_run, {"worked_examples": 1}, of=1, round=1)[0]
    [row] = generate.dataset(run.store).select([0])
    teacher = engines.open_engine("transformers", engines.teacher_of(run.live))
    asked = next(one for one in problems.load(run, "train", 8, seed=0) if one.id == row["problem_id"])
    question, tokens = generate.prompting(run.live, TOKENIZER)(asked), row["tokens"].tolist()
    [(_, signal)] = teacher.score([question + tokens], top_k=3)
    assert row["prompt_tokens"] == len(question)
    wanted = signal.top_logprobs[len(question) - 1 : -1]
    assert np.allclose(row["top_logprobs"].reshape(-1, 3), wanted, atol=2e-3)
    assert row["top_ids"].reshape(-1, 3).tolist() == signal.top_ids[len(question) - 1 : -1].tolist()


@pytest.mark.parametrize("changed", [{"choose": "random"}, {"choose": "answer"}, {"correct": False}])
def test_controls_take_as_many(make_run, changed):
    [run] = by_rounds(make_run, of=1, round=1, **changed)
    assert len(generate.read(run.store)) == 3
    assert ("AUROC" in base.noted(run.store)["numbers"]) <= (changed.get("choose") != "random")


def test_what_cannot_be_is_one_line(make_run, tmp_path):
    with pytest.raises(InputError, match=r"^elad.budget = 1.5: 9 problems in 3 rounds, and there are 6 to choose"):
        by_rounds(make_run, budget=1.5)
    with pytest.raises(InputError, match=r"^elad.budget = 0.1: 7 problems in 7 rounds, and there are 6"):
        by_rounds(make_run, budget=0.1, of=7)
    other = tiny.tokenizer()
    other.add_tokens(["<more>"])
    folder = tiny.save_model(tmp_path / "other")
    other.save_pretrained(folder)
    with pytest.raises(InputError, match=r"^generate.teacher = .*: its tokens are not those of the student"):
        by_rounds(make_run, {"teacher": str(folder)})
    with pytest.raises(InputError, match=r"generate's filters drop all its texts; allowed: keep_right = False$"):
        by_rounds(make_run, {"keep_right": True})
