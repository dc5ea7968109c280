"""Attribution on the tiny model, against its own definitions; the tables on made-up numbers."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from response_priming import problems, prompts
from response_priming.attribution import attributions, figures
from response_priming.errors import InputError
from response_priming.generate import teacher

mpl.use("Agg")

PREFIX = "As a teacher, explain. "
EXAMPLES = [problems.Problem("v-0", "What is 1 + 1?", "1 + 1 = <<1+1=2>>2\n#### 2", "2")]
NEUTRAL = tiny.VOCABULARY["Ġ"]


def located(question="What is 2 + 3?", *, prefix=PREFIX, examples=EXAMPLES, tokenizer=None):
    tokenizer = tokenizer or tiny.tokenizer()
    return attributions.locate(tokenizer, question, system_prompt="Solve it.", prefix=prefix, examples=examples)


def text_of(prompt, region):
    tokens = [token for token, where in zip(prompt.ids, prompt.regions, strict=True) if where == region]
    return tiny.tokenizer().decode(tokens)


@pytest.fixture(scope="module")
def explainer():
    return attributions.Explainer(tiny.llama().requires_grad_(False), [40, 50, 0], NEUTRAL)


@pytest.fixture(scope="module")
def ids():
    return torch.tensor([located(examples=[]).ids])


# --- regions ---


def test_the_prompt_is_the_teachers():
    chat = prompts.messages("What is 2 + 3?", system_prompt="Solve it.", prefix=PREFIX, examples=EXAMPLES)
    assert located().ids == prompts.encode(tiny.tokenizer(), chat)


def test_every_part_of_the_prompt_is_in_its_region():
    prompt = located()
    assert text_of(prompt, "system prompt") == "Solve it."
    assert text_of(prompt, "prefix") == PREFIX * 2
    assert text_of(prompt, "worked examples") == EXAMPLES[0].question + EXAMPLES[0].worked
    assert text_of(prompt, "question") == "What is 2 + 3?"
    assert text_of(prompt, "chat template") == "system: \nuser: \nassistant: \nuser: \nassistant: "


def test_without_a_prefix_nothing_is_in_its_region():
    assert "prefix" not in located(prefix="").regions


@given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip))
@settings(max_examples=30, deadline=None)
def test_any_question_is_found(question):
    assert text_of(located(question), "question").strip() == question.strip()


def test_a_segment_is_one_part_or_one_token_of_the_question():
    prompt = located()
    table = pd.DataFrame({"region": prompt.regions, "segment": prompt.segments})
    assert (table.groupby("segment")["region"].nunique() == 1).all()
    assert (table[table["region"] == "question"].groupby("segment").size() == 1).all()
    assert table[table["region"] == "prefix"]["segment"].nunique() == 2
    assert sorted(set(prompt.segments)) == list(range(max(prompt.segments) + 1))


def test_a_template_that_changes_the_question_is_refused():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% for turn in messages %}{{ turn.content | upper }}{% endfor %}"
    with pytest.raises(InputError, match=r"^chat template of the teacher: changes the system prompt 'Solve it\.'"):
        located(tokenizer=tokenizer)


# --- the methods ---


def test_integrated_gradients_add_up_to_the_change(explainer, ids):
    found, gap = explainer.gradient(ids, 300)
    change = explainer.logprob(ids) - explainer.logprob(torch.full_like(ids, NEUTRAL))
    assert found.shape == (ids.shape[1],)
    assert found.sum() == pytest.approx(float(change), rel=0.02)
    assert gap < 0.02


def test_a_blank_token_has_no_attribution(explainer, ids):
    blank = (ids[0] == NEUTRAL).numpy()
    assert blank.any()
    found, _ = explainer.gradient(ids, 4)
    assert (found[blank] == 0).all()


def test_occlusion_is_the_loss_from_blanking_a_segment(explainer, ids):
    segments = [number // 7 for number in range(ids.shape[1])]
    found = explainer.occlusion(ids, segments)
    left = ids.clone()
    left[0, 7:14] = NEUTRAL
    expected = float(explainer.logprob(ids) - explainer.logprob(left))
    assert found[7:14] == pytest.approx(expected, abs=1e-4)


def test_deletion_goes_from_the_prompt_to_a_blank_one(explainer, ids):
    curve = explainer.deletion(ids, np.arange(ids.shape[1])).set_index("fraction")["logprob"]
    assert curve[0.0] == pytest.approx(float(explainer.logprob(ids)) / 3)
    assert curve[1.0] == pytest.approx(float(explainer.logprob(torch.full_like(ids, NEUTRAL))) / 3)


def test_what_deletion_curves_have_in_common_is_computed_once(ids, monkeypatch):
    fresh, asked = attributions.Explainer(tiny.llama(), [40], NEUTRAL), []
    monkeypatch.setattr(fresh, "logprob", lambda left: asked.append(left) or torch.tensor([-2.0]))
    found = {name: np.random.default_rng(0).random(ids.shape[1]) for name in ("one", "the same")}
    curves = fresh.curves(ids, found, 1, np.random.default_rng(0))
    assert len(curves) == 3 * len(attributions.FRACTIONS)
    assert len(asked) == len({tuple(left[0].tolist()) for left in asked}) <= 2 + 2 * (len(attributions.FRACTIONS) - 2)


# --- the stage ---


@pytest.fixture
def run(make_run):
    made = {"n_train": 2, "worked_examples": 1, "response_tokens": 4}
    for strategy in ("none", "teacher"):
        teacher.respond(make_run("generate", strategy=strategy, **made))
    small = {"attribution_problems": 2, "gradient_steps": 2, "random_orders": 1}
    return make_run("attribution", strategies=["none", "teacher"], worked_examples=1, n_train=2, **small)


def test_the_stage_attributes_every_token_of_every_strategy(run):
    result = attributions.attribute(run)
    assert set(map(tuple, result.tokens[["strategy", "problem"]].to_numpy())) == {
        (strategy, f"train-{number}") for strategy in ("none", "teacher") for number in (0, 1)
    }
    regions = result.tokens.groupby("strategy")["region"].unique().map(set)
    assert regions["teacher"] == set(attributions.REGIONS)
    assert regions["none"] == set(attributions.REGIONS) - {"prefix"}
    assert result.tokens[[*attributions.METHODS]].notna().all(axis=None)
    assert set(result.deletion["order"]) == {*attributions.METHODS, "random"}
    before = (run.output / "attribution" / "manifest.json").stat().st_ino
    pd.testing.assert_frame_equal(attributions.attribute(run).tokens, result.tokens)
    assert (run.output / "attribution" / "manifest.json").stat().st_ino == before


def test_figures_and_table_show_every_strategy(run):
    result = attributions.attribute(run)
    shown = figures.table(result, run.strategies)
    assert len(shown) == len(run.strategies)
    axes = figures.shares_figure(result, run.strategies).axes[-1]
    assert [label.get_text().replace("\n", " ") for label in axes.get_xticklabels()] == list(attributions.REGIONS)
    assert len(figures.deletion_figure(result, run.strategies).axes) == len(run.strategies)


def test_responses_to_another_prompt_are_refused(run):
    other = run.model_copy(update={"worked_examples": 0})
    with pytest.raises(InputError, match=r"^none: train-0 was answered to another prompt"):
        attributions.attribute(other)


def test_more_problems_than_responses_are_refused(run):
    more = run.model_copy(update={"attribution_problems": 3})
    with pytest.raises(InputError, match=r"attribution_problems = 3: strategy none has responses to 2 problems$"):
        attributions.attribute(more)


def test_missing_responses_and_missing_strategies_are_named(make_run):
    with pytest.raises(InputError, match=r"responses/none: not made yet"):
        attributions.attribute(make_run("attribution", strategies=["none"]))
    with pytest.raises(InputError, match=r"strategies = \[\]: must name one"):
        attributions.attribute(make_run("attribution", strategies=[]))


# --- what follows from the tables ---


LOSSES = {"occlusion": 2.0, "gradient": 0.5, "random": 1.0}


def made_up(gradient, occlusion):
    prompt = {"strategy": "none", "problem": "train-0"}
    size = len(gradient)
    tokens = pd.DataFrame({"region": ["question"] * (size - 1) + ["system prompt"], "segment": range(size), **prompt})
    deletion = pd.DataFrame(
        [(order, fraction, -1 - fraction * loss) for order, loss in LOSSES.items() for fraction in (0.0, 1.0)],
        columns=["order", "fraction", "logprob"],
    )
    gaps = pd.DataFrame({"gap": [0.1], **prompt}, index=[0])
    others = {"relevance": gradient, "relevance-cp": gradient, "input-gradient": occlusion}
    return attributions.Attributions(
        tokens.assign(gradient=gradient, occlusion=occlusion, **others), deletion.assign(**prompt), gaps
    )


def test_shares_of_a_prompt_add_up_to_one_and_count_both_signs():
    shares = attributions.shares(made_up([1.0, -2.0, 1.0], [3.0, 0.0, -1.0]).tokens).set_index("region")
    assert shares["gradient"].to_dict() == {"question": 0.75, "system prompt": 0.25}
    assert shares["occlusion"].to_dict() == {"question": 0.75, "system prompt": 0.25}
    assert shares["relevance"].to_dict() == shares["gradient"].to_dict()
    assert shares["tokens"].to_dict() == pytest.approx({"question": 2 / 3, "system prompt": 1 / 3})


def test_occlusion_counts_a_segment_once():
    tokens = made_up([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]).tokens.assign(segment=[0, 0, 1])
    shares = attributions.shares(tokens).set_index("region")
    assert shares["occlusion"].to_dict() == {"question": 0.5, "system prompt": 0.5}


@pytest.mark.parametrize(("occlusion", "agreement"), [([1.0, 5.0, 6.0], 1), ([6.0, 5.0, 1.0], -1)])
def test_checks_are_areas_between_curves_and_the_rank_correlation(occlusion, agreement):
    checks = attributions.checks(made_up([0.1, 0.2, 0.3], occlusion)).iloc[0]
    assert checks["occlusion"] == pytest.approx(0.5)
    assert checks["gradient"] == pytest.approx(-0.25)
    assert checks["agreement"] == pytest.approx(agreement)
    assert checks["gap"] == 0.1
