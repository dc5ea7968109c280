"""The knowledge store, what is retrieved from it, and how a student is asked with it."""

import json
import math

import numpy as np
import pytest
import torch

from response_priming import artifacts, prompts
from response_priming.errors import InputError
from response_priming.methods import base, knowledge
from response_priming.methods.examples import Examples
from response_priming.methods.knowledge import SoftPrompted, likeness, parsed
from response_priming.methods.leaks import leaks
from response_priming.problems import Problem, load

SIZES = {"n_train": 6, "n_test": 5, "train_batch": 2, "micro_batch": 2, "train_tokens": 500}
ENTRIES = [
    ("Ann has 31 red pens and gets 40 pens. How many pens?", "31 + 40 = 71\n#### 71"),
    ("Bob reads 50 pages, then 22 more.", "50 + 22 = 72\n#### 72"),
    ("Pens cost 61 and pens cost 24 here, and 30 more. What do pens cost?", "61 + 24 = 85\n85 + 30 = 115\n#### 115"),
    ("Cleo owns 90 hats and buys 27.", "90 + 27 = 117\n#### 117"),
]


@pytest.fixture
def make(make_run):
    """Makes the method, its store beside the row; with `entries`, that is written already."""

    def made(entries=None, run=None, **parameters):
        described = base.described("retrikt", parameters)
        live = make_run("generate", strategy="none", worked_examples=0, n_train=6, response_tokens=4)
        wanted = make_run("distill", arm="none", **SIZES | (run or {}))
        method = base.method_of(wanted.placed(wanted.build / "related" / "retrikt").by(described).asking(live))
        if entries is not None:
            recipe = artifacts.decided_by("related", {"of": len(entries)}, [], code=[])
            with artifacts.writing(method.knowledge, recipe) as aside:
                rows = [json.dumps({"question": question, "answer": answer}) for question, answer in entries]
                (aside / knowledge.FILE).write_text("\n".join(rows))
        return method

    return made


def asking(question, solution="1 + 1 = 2", name="train-0"):
    return Problem(name, question, solution, "2")


# --- retrieval ---


def test_scores_are_those_of_the_formula(make):
    method, query = make(ENTRIES[:3]), "how many pens and pens has bob"
    found, bags = (
        method.scores(query),
        [question.lower().translate({44: "", 46: "", 63: ""}).split() for question, _ in ENTRIES[:3]],
    )
    mean, wanted = np.mean([len(bag) for bag in bags]), np.zeros(3)
    for place, bag in enumerate(bags):
        for word in query.split():
            n = sum(word in other for other in bags)
            idf, tf = math.log(1 + (3 - n + 0.5) / (n + 0.5)), bag.count(word)
            wanted[place] += idf * tf * 2.5 / (tf + 1.5 * (0.25 + 0.75 * len(bag) / mean)) if n else 0
    assert found * 2.5 == pytest.approx(wanted, abs=1e-6)
    assert (wanted > 0).all()
    assert not method.scores("nobody knows").any()
    assert not method.scores("?").any()


@pytest.mark.parametrize("place", range(4))
def test_the_entry_that_asks_the_same_ranks_first_and_is_never_given(make, place):
    method, (question, solution) = make(ENTRIES), ENTRIES[place]
    assert int(method.scores(question).argmax()) == place
    near = asking(question + " Now?", "2 + 2 = 4", "near")
    assert method.given(near).question == question
    for own in (asking(question.upper(), name="a"), asking("Who has pens?", solution, "b")):
        assert method.given(own).question != question
    assert make(ENTRIES[:1]).given(asking(ENTRIES[0][0])) is None


def test_a_random_entry_is_as_long_and_another_one(make):
    filler = [
        (f"Person {n} has {n} pens {'and more ' * (n % 12)}.", f"{n} + 1 = {n + 1}\n#### {n + 1}")
        for n in range(30, 90)
    ]
    nearest, other, again = make(filler), make(filler, context="random"), make(filler, context="random")
    length = {entry.id: size for entry, size in zip(nearest.entries, nearest.lengths, strict=True)}
    seen = set()
    for number in range(40):
        problem = asking(f"Has person {number + 35} many pens and more?", name=f"train-{number}")
        own, found = nearest.given(problem), other.given(problem)
        assert found != own
        assert abs(length[found.id] - length[own.id]) <= 0.1 * length[own.id]
        assert again.given(problem) == found
        seen.add(found.id)
    assert len(seen) > 10


def test_the_entry_is_read_first_in_training_and_without_one_the_prompt_is_the_usual_one(make, make_run):
    plain, none, method = make_run("distill", arm="fine-tuned", **SIZES), make(context="none"), make(ENTRIES)
    tokenizer = knowledge.opened(method.run.live).tokenizer
    asked = load(plain, "train", 6, seed=0)
    without = Examples(plain, tokenizer, None)
    for run, same in ((none.run, True), (method.run, False)):
        found = Examples(run.model_copy(update={"arm": "fine-tuned"}), tokenizer, None)
        assert [found[place]["input_ids"] == without[place]["input_ids"] for place in range(6)] == [same] * 6
        assert [found[place]["labels"] == without[place]["labels"] for place in range(6)] == [True] * 6
    assert none.prepare() == []
    chat = method.prompt(asked[0])
    entry = method.given(asked[0])
    assert [turn["role"] for turn in chat] == ["system", "user", "assistant", "user"]
    assert [turn["content"] for turn in chat[1:]] == [entry.question, entry.worked, asked[0].question]
    assert chat[-1] == prompts.bare(asked[0].question, "")[-1]


def test_a_store_with_a_problem_of_the_test_is_refused_in_one_line(make):
    planted = load(make().run, "test", 5, seed=0)[3]
    for entry in ((planted.question.lower(), "9 + 99 = 108\n#### 108"), ("Others?", planted.worked)):
        with pytest.raises(
            InputError, match=r"^related/retrikt/knowledge: knowledge-4: asked in the test, too; [^\n]*$"
        ):
            make([*ENTRIES, entry]).prompt(asking("What?"))


def test_how_often_the_entry_has_the_problems_operations_is_compared_with_all_pairs(make):
    method = make(ENTRIES, {"two_step_share": 0.0})
    found = method.mechanism(None, [])
    assert found["of all pairs"] == 0.75
    assert 0 <= found["same operations"] <= 1
    assert make(ENTRIES, context="none").mechanism(None, []) == {}


# --- what is written ---


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Ann has 3 and gets 4.\n3 + 4 = 7\n#### 7", True),
        ("Ann has 3, 4 and 5.\n3 + 4 = 7 pens\n7 + 5 = $12\n#### 12", True),
        ("Ann has 1,200 and 4.\n1,200 / 4 = 300\n#### 300", True),
        ("Ann has 3 and gets 4.\n3 + 4 = 8\n#### 8", False),
        ("Ann has 3 and gets 4.\n3 + 4 = 7\n#### 8", False),
        ("Ann has 3 and gets 4.\n3 + 4 = 7", False),
        ("Ann has 3 and gets 4.\n#### 7", False),
        ("Ann has 5 and gets 4.\n3 + 4 = 7\n#### 7", False),
        ("Ann has 3 and gets 4.", False),
        ("", False),
    ],
)
def test_a_text_is_kept_whose_steps_are_right_and_of_its_question(text, kept):
    found = parsed("a", text)
    assert (found is not None) == kept
    if found:
        assert (found.question, found.solution) == tuple(text.split("\n", 1))


def test_likeness_is_the_largest_cosine():
    assert likeness(["a b"], []) == pytest.approx([0])
    assert likeness(["a b", "c d", ""], ["B, a!", "e"]) == pytest.approx([1, 0, 0])
    # Of three texts, two have a and one each b and c.
    a, b = 1 + math.log(4 / 3), 1 + math.log(4 / 2)
    assert likeness(["a b"], ["a c", "d d"]) == pytest.approx([a * a / (a * a + b * b)])


@pytest.fixture
def teacher(make):
    return SoftPrompted(make().run.live, 5, 0.05, 1.0)


def test_what_is_trained_is_what_it_writes_behind(teacher, make):
    asked = load(make().run, "train", 4, seed=0)
    prompt, texts = teacher.prompt(asked[:2]), [teacher.text(one) for one in asked[2:]]
    first = teacher.logprobs(prompt, texts, temperature=1)
    weights = [weight.clone() for weight in teacher.base.parameters()]
    for _ in range(3):
        teacher.step(prompt, texts, [1.0, 1.0])
    moved = teacher.logprobs(prompt, texts, temperature=1)
    assert moved.sum() > first.sum()
    # The last rows of the embedding are what it writes behind; nothing else moved.
    given = teacher.write(prompt, 2, step=0)
    soft = teacher.model.get_prompt(batch_size=1)[0]
    assert torch.equal(teacher.base.get_input_embeddings().weight[teacher.virtual], soft)
    begin = teacher.virtual[0]
    assert all(
        torch.equal(old[:begin], new[:begin]) for old, new in zip(weights, teacher.base.parameters(), strict=True)
    )
    with torch.no_grad():
        for text, row in zip(texts, moved, strict=True):
            read = torch.tensor([[*teacher.virtual, *prompt, *text[:-1]]])
            logits = teacher.base(input_ids=read).logits[0, -len(text) :, : teacher.engine.vocabulary]
            wanted = logits.log_softmax(-1).gather(-1, torch.tensor(text)[:, None])[:, 0]
            assert torch.allclose(row[: len(text)], wanted, atol=1e-4)
            assert not row[len(text) :].any()
    assert [one.tokens for one in teacher.write(prompt, 2, step=0)] == [one.tokens for one in given]
    assert [one.tokens for one in teacher.write(prompt, 2, step=1)] != [one.tokens for one in given]
    assert max(token for one in given for token in one.tokens) < begin


def test_a_text_of_higher_reward_becomes_likelier_however_many_are_read_at_once(teacher, make, monkeypatch):
    asked = load(make().run, "train", 5, seed=0)
    prompt, texts = teacher.prompt(asked[:1]), [teacher.text(one) for one in asked[1:]]
    soft = next(weight for weight in teacher.model.parameters() if weight.requires_grad)
    begun, moved = soft.detach().clone(), []
    before = teacher.logprobs(prompt, texts, temperature=0.5).sum(-1)
    for together in (8, 3):
        monkeypatch.setattr(knowledge, "TOGETHER", together)
        soft.data.copy_(begun)
        teacher.optimizer.state.clear()
        teacher.step(prompt, texts, [1.5, -0.5, -0.5, -0.5], temperature=0.5)
        moved.append(soft.grad.clone())
    assert torch.allclose(*moved, atol=1e-5)
    gained = teacher.logprobs(prompt, texts, temperature=0.5).sum(-1) - before
    assert gained[0] > gained[1:].max()


def stories(name, text):  # noqa: ARG001
    """A problem for each text, of the test where its number is even."""
    number = int(name.rpartition("-")[2])
    return Problem(name, f"Kim has 1 pen and gets {30 + number // 2}.", f"1 + {30 + number // 2} = 2\n#### 2", "2")


def test_problems_of_the_test_are_left_out_and_counted_and_repeats_are_one(make, monkeypatch):
    method = make(written=2.0, tune_steps=1, reinforce_steps=1)
    planted, parse = load(method.run, "test", 5, seed=0)[0], stories
    monkeypatch.setattr(knowledge, "parsed", lambda name, text: planted if name.endswith("-3") else parse(name, text))
    (folder,) = method.prepare()
    entries, found = method.entries, base.noted(folder)
    assert leaks(entries, [planted]) == []
    assert len({entry.question for entry in entries}) == len(entries) == 6
    assert found["leaks"] == 1
    assert found["numbers"] == {"kept of written": 6 / 12, "right steps": 1}
    assert found["spent"]["teacher_generated"] == pytest.approx(12 * 12, abs=60)
    assert found["spent"]["teacher_read"] > 100
    text = (folder / knowledge.FILE).read_text()
    monkeypatch.setattr(knowledge, "opened", lambda _: pytest.fail("made again"))
    assert make(written=2.0, tune_steps=1, reinforce_steps=1, context="random").prepare() == [folder]
    assert (folder / knowledge.FILE).read_text() == text


@pytest.mark.parametrize("changed", [{}, {"tune_steps": 0}, {"reinforce_steps": 0}, {"diversity": 0.0}])
def test_a_step_that_is_left_out_is_not_made(make, monkeypatch, changed):
    made = []
    monkeypatch.setattr(SoftPrompted, "step", lambda *_, **__: made.append(1))
    monkeypatch.setattr(
        knowledge, "parsed", lambda name, text: stories(name, text) if name.endswith(("1", "4")) else None
    )
    method = make(**{"tune_steps": 2, "reinforce_steps": 1} | changed)
    method.prepare()
    assert len(made) == method.tune_steps + method.reinforce_steps


def test_nothing_that_can_be_kept_is_one_line(make):
    with pytest.raises(InputError, match=r"^related/retrikt/knowledge: of 6 texts of [^\n]* 0 have right steps[^\n]*$"):
        make(written=1.0, tune_steps=0, reinforce_steps=1).prepare()
