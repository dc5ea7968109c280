import tiny
import torch

from response_priming.engines.transformers import Reader, TransformersEngine
from response_priming.methods import rollouts, student
from response_priming.methods.losses import IGNORED

QUESTIONS = [[5, 6, 7, 8], [9, 10], [5, 6, 7, 11, 12, 13]]


def draws(step, count=3):
    return [rollouts.draw(0, step, item) for item in range(count)]


def by_hand(model, question, draw, max_tokens):
    """An answer of one model alone, token by token, by inverting the cumulative distribution."""
    tokens = list(question)
    for _ in range(max_tokens):
        with torch.no_grad():
            cumulative = model(torch.tensor([tokens])).logits[0, -1].double().softmax(-1).cumsum(-1)
        tokens.append(int((cumulative <= draw.random() * cumulative[-1]).sum()))
        if tokens[-1] == 0:
            break
    return tokens[len(question) :]


def taught():
    model = tiny.llama()
    student.teach(model)
    return model.train()


def sampled(model, questions, draws, **mixed):
    with rollouts.answering(model, tiny.tokenizer()) as engine:
        return rollouts.sample(engine, questions, draws, max_tokens=8, **mixed)


def test_answers_are_drawn_from_the_students_own_distribution():
    expected = [by_hand(tiny.llama(), *pair, 8) for pair in zip(QUESTIONS, draws(4), strict=True)]
    assert sampled(taught(), QUESTIONS, draws(4)) == expected


def test_an_answer_depends_on_seed_step_and_place_and_on_nothing_beside_it():
    model = taught()
    whole = sampled(model, QUESTIONS, draws(2))
    assert sampled(model, QUESTIONS, draws(2)) == whole
    assert sampled(model, QUESTIONS[1:2], [rollouts.draw(0, 2, 1)]) == whole[1:2]
    assert sampled(model, QUESTIONS, draws(3)) != whole


def test_the_student_is_left_as_it_was():
    model, plain = taught(), taught()
    sampled(model, QUESTIONS, draws(0))
    assert model.training
    assert model.config._attn_implementation == plain.config._attn_implementation != "cascade"


def test_the_mixture_is_of_both_and_each_reads_its_own_prompt():
    prompts = [[3, 3, 3, *question] for question in QUESTIONS]
    teacher = TransformersEngine(tiny.llama(), tiny.tokenizer(), batch=1)
    almost = 1 - 1e-12
    found = sampled(taught(), QUESTIONS, draws(1), teacher=Reader(teacher, prompts, shared=0, room=8), share=almost)
    assert found == [by_hand(tiny.llama(), *pair, 8) for pair in zip(prompts, draws(1), strict=True)]


def test_a_batch_with_answers_ends_them_though_their_end_is_padding(batch):
    questions = [rollouts.question(batch, row) for row in range(3)]
    made = rollouts.answered(batch, {0: [4, 5, 0], 2: [6]}, pad=0)
    wanted = [[4, 5, 0], batch["labels"][1][batch["labels"][1] != IGNORED].tolist(), [6]]
    for row, (question, text) in enumerate(zip(questions, wanted, strict=True)):
        n = len(text)
        assert made["input_ids"][row][made["attention_mask"][row].bool()].tolist() == question + text[:-1]
        assert made["labels"][row].tolist() == text + [IGNORED] * (made["labels"].shape[1] - n)
        assert made["positions"][row, :n].tolist() == list(range(len(question) - 1, len(question) - 1 + n))
        assert made["scored"][row].tolist() == [place < n for place in range(made["labels"].shape[1])]
    assert made["problem_ids"] == batch["problem_ids"]
    assert "top_logprobs" not in made
