"""The stage on a tiny student: every student, text and head; what is kept; and what is refused."""

import json
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save
from tests.attention.test_metrics import causal_maps

from response_priming import artifacts, params, paths, problems, prompts
from response_priming.attention import analysis as attention
from response_priming.attention import differences, metrics
from response_priming.attention import maps as capture
from response_priming.attention.analysis import Reading, Text
from response_priming.attention.results import EVERY, PAPER
from response_priming.errors import InputError

LAYERS, HEADS = tiny.LAYERS, tiny.HEADS
ARMS = ["undistilled", "none", "teacher"]


def save_adapter(run, arm, seed, student):
    """A random adapter, filed as the stage distill files it."""
    model = tiny.llama()
    torch.manual_seed(10 * seed + len(arm))
    config = LoraConfig(r=2, target_modules=["q_proj", "k_proj"], init_lora_weights=False)
    recipe = {"stage": "distill", "parameters": {"student": str(student), "student_revision": None}}
    with artifacts.writing(run.student_of(arm, seed), recipe) as aside:
        get_peft_model(model, config).save_pretrained(str(aside))


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Makes runs on a tiny student with adapters for `none` and `teacher` and two seeds; each finishes once."""
    root = tmp_path_factory.mktemp("attention")
    student = tiny.save_model(root / "model")

    def make(**changes):
        values = {"student": str(student), "arms": ARMS, "seeds": [0, 1], "attention_prompts": 3}
        run = params.load("laptop").run("attention-visualize").model_dump() | values
        return params.AttentionRun.model_validate(run | {"dtype": "float32", "device": "cpu"} | changes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", root / "build")
        for arm in ("none", "teacher"):
            for seed in (0, 1):
                save_adapter(make(), arm, seed, student)
        yield make


@pytest.fixture
def run(make):
    return make()


@contextmanager
def other_content(file, content):
    """A file with another content for a while."""
    before = file.read_bytes()
    file.write_bytes(content)
    yield
    file.write_bytes(before)


def test_every_student_is_measured_on_every_prompt_and_region(run):
    metrics = attention.analyse(run).metrics
    counts = metrics.groupby(["arm", "seed", "region"]).size()
    students = [("undistilled", 0), ("none", 0), ("none", 1), ("teacher", 0), ("teacher", 1)]
    each = run.attention_prompts * LAYERS * HEADS
    assert counts.to_dict() == {(*who, region): each for who in students for region in ("prompt", "solution")}
    assert set(metrics) == {"arm", "seed", "prompt", "region", "layer", "head", *EVERY}


def test_numbers_are_those_of_the_librarys_maps_with_the_students_adapter(run):
    found = attention.analyse(run).metrics.query(
        "arm == 'teacher' and seed == 1 and prompt == 2 and region == 'prompt'"
    )
    ((model, _),), tokenizer = capture.load(run)
    model.set_adapter("teacher-1")
    problem = problems.load(run, "test", 3, seed=run.seed)[2]
    prompt = prompts.encode(tokenizer, prompts.bare(problem.question, run.system_prompt))
    with torch.inference_mode():
        maps = torch.cat(model(torch.tensor([prompt]), output_attentions=True).attentions)
    expected = metrics.head_metrics(maps)
    for name in ("entropy", "diagonal", "similarity"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_all_students_read_the_prompt_and_then_the_worked_solution(run):
    example = attention.analyse(run).examples[0]
    problem = problems.load(run, "test", 1, seed=run.seed)[0]
    assert example.problem == problem.id
    assert "".join(example.tokens[example.solution :]).removesuffix("<end>") in problem.worked
    assert list(example.positions[1:]) == list(range(example.positions[1], example.positions[-1] + 1))
    assert example.positions[0] == 0


def test_the_explorer_holds_every_arms_first_seed(run):
    for example in attention.analyse(run).examples:
        kept = len(example.tokens)
        assert kept == run.explorer_tokens
        assert list(example.maps) == ARMS
        assert all(maps.shape == (LAYERS, HEADS, kept, kept) for maps in example.maps.values())
        assert example.weights("none", 1, 2).dtype == np.float32
        assert not np.triu(example.weights("none", 1, 2), 1).any()
    assert len(attention.analyse(run).examples) == run.explorer_prompts


def test_maps_are_read_back_as_the_students_maps(make):
    run = make(explorer_tokens=512, attention_prompts=1)
    example = attention.analyse(run).examples[0]
    metrics = attention.analyse(run).metrics.query("arm == 'none' and seed == 0 and region == 'prompt'")
    for row in metrics.itertuples():
        weights = example.weights("none", row.layer, row.head)[: example.solution, : example.solution]
        assert np.diagonal(weights).mean() == pytest.approx(row.diagonal, abs=0.004)


def test_the_released_variant_reads_one_prompt_and_leaves_out_the_last_layer(make):
    metrics = attention.analyse(make(attention_prompts=1, with_solution=False, skip_layers=1)).metrics
    assert set(metrics["region"]) == {"prompt"}
    assert metrics["layer"].max() == LAYERS - 2
    assert set(metrics["prompt"]) == {0}


def test_the_most_divergent_head_comes_first(run):
    divergent = attention.analyse(run).divergent
    assert len(divergent) == LAYERS * HEADS
    assert divergent["variance"].is_monotonic_decreasing
    assert divergent["variance"].iloc[-1] > 0
    assert divergent["seeds"].gt(0).all()


@pytest.mark.parametrize("changes", [{}, {"arms": ["undistilled"]}, {"seeds": [0], "attention_prompts": 1}])
def test_whatever_was_analysed_can_be_summarised(make, changes):
    run = make(**changes)
    found = attention.analyse(run)
    summary = differences.summary(found.metrics, found.divergent, found.tests)
    assert (summary["layers"], summary["heads"], summary["prompts"]) == (LAYERS, HEADS, run.attention_prompts)
    assert (summary["change"] is None) == (run.arms == ["undistilled"])


def test_a_finished_stage_is_read_not_repeated(run, monkeypatch):
    first = attention.analyse(run)
    monkeypatch.setattr(capture, "load", lambda _: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(first.metrics, attention.analyse(run).metrics)


def test_without_trained_arms_the_student_alone_is_measured(make):
    alone = attention.analyse(make(arms=["undistilled"])).metrics
    together = attention.analyse(make()).metrics.query("arm == 'undistilled'").reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, together, atol=1e-5)


# --- refused ---


def test_a_missing_adapter_is_named(make):
    with pytest.raises(InputError, match="students/confidence/seed-0: not made yet"):
        attention.analyse(make(arms=["undistilled", "confidence"]))


def test_an_adapter_of_another_student_is_refused(make):
    with pytest.raises(
        InputError, match=r"students/none/seed-0: trained with student = .* must be this run's 'embedded'"
    ):
        attention.analyse(make(student="embedded"))


def test_an_adapter_of_another_architecture_is_refused(make):
    run = make(attention_prompts=1)
    file = run.student_of("teacher", 1) / "adapter_model.safetensors"
    narrower = save({key: value[..., :3].contiguous() for key, value in load_file(file).items()})
    refused = pytest.raises(InputError, match=r"teacher/seed-1: no adapter that fits this run's student: .*size")
    made = artifacts.read(file.parent)
    with other_content(file, narrower):
        artifacts.seal(file.parent, made)
        with refused as error:
            attention.analyse(run)
    artifacts.seal(file.parent, made)
    assert "\n" not in str(error.value)


def test_an_analysis_says_nothing_so_that_found_and_computed_results_are_one_page(make, capsys):
    attention.analyse(make(attention_prompts=1, explorer_tokens=8))
    assert capsys.readouterr().out == ""


def test_a_text_longer_than_the_runs_limit_is_refused(make):
    with pytest.raises(InputError, match=r"attention_tokens: problem test-0 has \d+ tokens; allowed: 40"):
        attention.analyse(make(attention_tokens=40))


def test_a_text_longer_than_the_student_takes_is_refused(make):
    run = make(attention_prompts=1, explorer_tokens=9)
    config = paths.BUILD.parent / "model" / "config.json"
    shorter = json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 50}).encode()
    refused = pytest.raises(InputError, match=r"attention_tokens: problem test-0 has \d+ tokens; allowed: 50")
    with other_content(config, shorter), refused:
        attention.analyse(run)


# --- accuracy beside attention ---


def score(run, arm, seed, right):
    with artifacts.writing(run.scores_of(arm, seed), {}) as aside:
        pd.DataFrame({f"{run.rule}-correct": right}).to_parquet(aside / "answers.parquet")


def test_a_student_that_is_not_scored_yet_is_named(run):
    analysis = attention.analyse(run)
    with pytest.raises(InputError, match="scores/undistilled/seed-0: not made yet"):
        differences.with_accuracy(run, analysis.metrics, analysis.divergent.head(1))


def test_each_students_change_stands_beside_its_accuracy(run):
    analysis = attention.analyse(run)
    for arm, seed in run.students:
        score(run, arm, seed, [True, seed == 1])
    heads = analysis.divergent.head(2)
    found = differences.with_accuracy(run, analysis.metrics, heads)
    assert found.groupby("seed")["accuracy"].unique().map(list).to_dict() == {0: [0.5], 1: [1.0]}
    assert len(found) == 5 * len(heads)
    layer, head = heads[["layer", "head"]].iloc[0]
    means = analysis.metrics.query("region == 'solution' and layer == @layer and head == @head")
    means = means.groupby(["arm", "seed"])["entropy"].mean()
    row = found.set_index(["arm", "seed", "layer", "head"]).loc[("teacher", 1, layer, head)]
    assert row["entropy"] == pytest.approx(means["teacher", 1] - means["undistilled", 0])


# --- one text, while its layers pass, against the public functions on whole maps ---

TOKENS, PROMPT = 9, 5
WHO = [("undistilled", 0), ("none", 0), ("none", 1), ("teacher", 0), ("teacher", 1)]
TEXT = Text("p", list(range(TOKENS)), PROMPT)


def take(who=WHO, text=TEXT, kept=None):
    """A reading of random maps, and the maps [students, layers, heads, tokens, tokens]."""
    maps = np.stack([causal_maps(index, tokens=len(text.tokens)) for index in range(len(who))])
    reading = Reading(who, text, kept)
    for layer in range(maps.shape[1]):
        reading.take(torch.from_numpy(maps[:, layer]))
    return reading, maps


@pytest.mark.parametrize("student", range(len(WHO)))
def test_the_prompts_numbers_are_those_of_the_prompt_alone(student):
    reading, maps = take()
    table = reading.metrics().set_index(["arm", "seed", "region"])
    found = table.loc[(*WHO[student], "prompt")]
    expected = metrics.head_metrics(maps[student][..., :PROMPT, :PROMPT])
    np.testing.assert_allclose(found[list(PAPER)], expected[list(PAPER)], rtol=1e-10)
    assert found[["layer", "head"]].to_numpy().tolist() == expected[["layer", "head"]].to_numpy().tolist()


def test_the_solutions_rows_see_the_whole_text():
    reading, maps = take()
    found = reading.metrics().query("arm == 'none' and seed == 1 and region == 'solution'")
    rows = maps[2][..., PROMPT:, :].astype(float)
    rows /= rows.sum(-1, keepdims=True)
    np.testing.assert_allclose(found["density"], (rows > 0.1).mean((-2, -1)).ravel())
    np.testing.assert_allclose(found["sink"], rows[..., 0].mean(-1).ravel())
    np.testing.assert_allclose(found["diagonal"], np.diagonal(rows, PROMPT, -2, -1).mean(-1).ravel())


def test_a_text_without_solution_has_one_region():
    reading, _ = take(text=Text("p", list(range(TOKENS)), TOKENS))
    assert set(reading.metrics()["region"]) == {"prompt"}
    assert reading.divergent()["solution"].isna().all()


def test_with_one_seed_the_divergence_is_that_of_the_public_function():
    who = [("undistilled", 0), ("none", 0), ("teacher", 0)]
    reading, maps = take(who)
    found = reading.divergent()
    for column, part in (("variance", maps), ("prompt", maps[..., :PROMPT, :PROMPT])):
        expected = metrics.divergent_heads(dict(zip("abc", part, strict=True))).sort_values(["layer", "head"])
        np.testing.assert_allclose(found[column], expected["variance"], rtol=1e-10)
    assert found["seeds"].isna().all()


def test_arms_are_means_over_seeds_and_seeds_are_compared_within_arms():
    reading, maps = take()
    maps = maps.astype(float)
    arms = np.stack([maps[0], maps[1:3].mean(0), maps[3:].mean(0)])
    np.testing.assert_allclose(reading.divergent()["variance"], arms.var(0).mean((-2, -1)).ravel(), rtol=1e-10)
    within = (maps[1:3].var(0) + maps[3:].var(0)).mean((-2, -1)) / 2
    np.testing.assert_allclose(reading.divergent()["seeds"], within.ravel(), rtol=1e-10)


def test_kept_maps_are_the_first_seeds_at_the_positions_kept():
    kept = [0, 4, 8]
    reading, maps = take(kept=kept)
    found = (torch.stack(reading.maps, dim=1).numpy() / 255.0) ** 2
    expected = maps[[0, 1, 3]][..., kept, :][..., kept]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 0.004
