import json
import math
from contextlib import nullcontext

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model

from response_priming import attention, figures, manifest, params, paths
from response_priming.errors import InputError

mpl.use("Agg")

LAYERS, HEADS, TOKENS = tiny.LAYERS, tiny.HEADS, 9


def causal_maps(seed, layers=3, heads=HEADS, tokens=TOKENS):
    scores = np.random.default_rng(seed).exponential(size=(layers, heads, tokens, tokens)) ** 3
    maps = np.tril(scores)
    return (maps / maps.sum(axis=-1, keepdims=True)).astype(np.float32)


def by_hand(maps):
    """The four numbers with plain loops."""
    rows = []
    for layer, layer_maps in enumerate(maps.astype(np.float64)):
        for head, raw in enumerate(layer_maps):
            entropy = diagonal = dense = 0.0
            for query, row in enumerate(raw):
                weights = [weight / sum(row) for weight in row]
                entropy -= sum(weight * math.log(weight) for weight in weights if weight > 0)
                diagonal += weights[query]
                dense += sum(weight > 0.1 for weight in weights)
            n, similarity = len(raw), math.nan
            if layer:
                here, below = raw.ravel(), maps[layer - 1, head].astype(np.float64).ravel()
                similarity = here @ below / math.sqrt((here @ here) * (below @ below))
            rows.append((layer, head, entropy / n, diagonal / n, dense / n**2, similarity))
    return pd.DataFrame(rows, columns=["layer", "head", *attention.METRICS])


# --- the four numbers ---


def test_random_causal_maps_agree_with_plain_loops():
    maps = causal_maps(0)
    pd.testing.assert_frame_equal(attention.head_metrics(maps), by_hand(maps), rtol=1e-12)


def test_tensors_with_bf16_rows_agree_with_plain_loops():
    maps = torch.tensor(causal_maps(1)).bfloat16()
    assert not torch.allclose(maps.double().sum(-1), torch.ones(1, dtype=torch.float64), atol=1e-5)
    pd.testing.assert_frame_equal(attention.head_metrics(maps), by_hand(maps.float().numpy()), rtol=1e-12)


def test_uniform_rows_have_the_entropy_of_their_length():
    maps = np.tril(np.ones((2, 1, TOKENS, TOKENS))) / np.arange(1, TOKENS + 1)[:, None]
    metrics = attention.head_metrics(maps)
    assert np.allclose(metrics["entropy"], np.log(np.arange(1, TOKENS + 1)).mean())
    assert np.allclose(metrics["diagonal"], (1 / np.arange(1, TOKENS + 1)).mean())
    assert metrics["similarity"].iloc[1] == pytest.approx(1)


def test_attending_to_oneself_has_no_entropy_and_a_full_diagonal():
    metrics = attention.head_metrics(np.tile(np.eye(TOKENS), (2, HEADS, 1, 1)))
    assert (metrics["entropy"] == 0).all()
    assert (metrics["diagonal"] == 1).all()
    assert np.allclose(metrics["density"], 1 / TOKENS)


def test_the_first_layer_alone_has_no_similarity():
    similarity = attention.head_metrics(causal_maps(0)).groupby("layer")["similarity"]
    assert similarity.count().tolist() == [0, HEADS, HEADS]


def test_the_altered_head_diverges_most():
    arms = {arm: causal_maps(0) for arm in ("undistilled", "none", "teacher")}
    arms["teacher"][2, 1] = causal_maps(7)[2, 1]
    divergent = attention.divergent_heads(arms)
    assert divergent.loc[0, ["layer", "head"]].tolist() == [2, 1]
    assert divergent["variance"].iloc[0] == pytest.approx(np.var([maps[2, 1] for maps in arms.values()], axis=0).mean())
    assert (divergent["variance"].iloc[1:] == 0).all()


# --- maps of a tiny Llama ---


def lora(seed):
    torch.manual_seed(seed)
    return LoraConfig(r=2, lora_dropout=0.5, target_modules=["q_proj", "k_proj"], init_lora_weights=False)


@pytest.fixture
def students():
    model = get_peft_model(tiny.llama(), lora(1), adapter_name="none")
    model.add_adapter("teacher", lora(2))
    return model.eval()


def library_maps(model, prompt):
    with torch.no_grad():
        return np.stack([m[0].numpy() for m in model(torch.tensor([prompt]), output_attentions=True).attentions])


def test_hooks_keep_what_the_library_returns():
    model, prompt = tiny.llama(), list(range(TOKENS))
    maps = attention.attend(model, prompt)
    assert maps.dtype == np.float32
    assert maps.shape == (LAYERS, HEADS, TOKENS, TOKENS)
    assert np.array_equal(maps, library_maps(model, prompt))


def test_a_model_is_left_without_hooks():
    model = tiny.llama()
    attention.attend(model, [1, 2])
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("arm", ["undistilled", "none", "teacher"])
def test_each_arm_gets_the_maps_of_its_own_adapter(students, arm):
    prompt = list(range(TOKENS))
    maps = attention.attend_arms(students, ["none", "undistilled", "teacher", "none"], prompt)[arm]
    students.set_adapter("none" if arm == "undistilled" else arm)
    with students.disable_adapter() if arm == "undistilled" else nullcontext():
        assert np.array_equal(maps, library_maps(students, prompt))


def test_the_undistilled_student_is_the_bare_model_and_differs_from_the_others(students):
    prompt = list(range(TOKENS))
    maps = attention.attend_arms(students, ["teacher", "undistilled", "none"], prompt)
    assert np.array_equal(maps["undistilled"], attention.attend(tiny.llama(), prompt))
    assert not np.allclose(maps["undistilled"], maps["none"], atol=1e-3)
    assert not np.allclose(maps["teacher"], maps["none"], atol=1e-3)


# --- the stage ---


@pytest.fixture
def run(tmp_path, monkeypatch, students):
    """A run on a tiny student whose arms `none` and `teacher` have adapters."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    student = tiny.save_model(tmp_path / "model")
    students.save_pretrained(tmp_path / "adapters")
    changes = {"student": str(student), "arms": ["undistilled", "none", "teacher"], "attention_prompts": 2}
    run = params.load("laptop").run("attention-visualize")
    run = params.AttentionRun.model_validate(run.model_dump() | changes | {"dtype": "float32", "device": "cpu"})
    for arm in ("none", "teacher"):
        recipe = {"stage": "distill", "parameters": {"student": str(student), "student_revision": None}}
        with manifest.writing(run.adapter_of(arm, 0), recipe) as aside:
            (tmp_path / "adapters" / arm).rename(aside / "adapter")
            for file in (aside / "adapter").iterdir():
                file.rename(aside / file.name)
            (aside / "adapter").rmdir()
    return run


def test_the_stage_measures_every_arm_on_every_prompt(run):
    analysis = attention.analyse(run)
    counts = analysis.metrics.groupby("arm").size()
    assert counts.to_dict() == dict.fromkeys(run.arms, run.attention_prompts * LAYERS * HEADS)
    assert list(analysis.metrics) == ["arm", "prompt", "layer", "head", *attention.METRICS]
    assert len(analysis.divergent) == LAYERS * HEADS
    assert analysis.divergent["variance"].is_monotonic_decreasing
    assert analysis.divergent["variance"].iloc[-1] > 0


def test_the_maps_kept_are_those_of_the_most_divergent_heads(run):
    analysis = attention.analyse(run)
    first = analysis.metrics.query("prompt == 0").set_index(["arm", "layer", "head"])
    assert "".join(analysis.tokens).startswith(f"system: {run.system_prompt}\nuser: ")
    for arm in run.arms:
        assert analysis.maps[arm].shape == (run.heatmaps, len(analysis.tokens), len(analysis.tokens))
        for kept, (layer, head) in zip(
            analysis.maps[arm], analysis.divergent[["layer", "head"]].to_numpy(), strict=False
        ):
            assert np.diagonal(kept).mean() == pytest.approx(first.loc[(arm, layer, head), "diagonal"], rel=1e-5)


def test_the_prose_gets_its_numbers_as_strings(run):
    top = attention.analyse(run).divergent.iloc[0]
    found = json.loads((run.output / "attention" / "variables.json").read_text())
    sizes = {"attention_prompts": "2", "attention_layers": str(LAYERS), "attention_heads": str(HEADS)}
    assert found == sizes | {"divergent_layer": str(int(top["layer"])), "divergent_head": str(int(top["head"]))}


def test_a_finished_stage_is_read_not_repeated(run, monkeypatch):
    first = attention.analyse(run)
    monkeypatch.setattr(attention, "load_students", lambda _: pytest.fail("computed again"))
    again = attention.analyse(run)
    pd.testing.assert_frame_equal(first.metrics, again.metrics)
    assert first.tokens == again.tokens


def test_a_missing_adapter_is_named(run):
    lacking = run.model_copy(update={"arms": ["undistilled", "confidence"]})
    with pytest.raises(InputError, match="students/confidence/seed-0: not made yet"):
        attention.analyse(lacking)


def test_an_adapter_of_another_student_is_refused(run):
    with pytest.raises(
        InputError, match=r"students/none/seed-0: trained with student = .* must be this run's 'embedded'"
    ):
        attention.analyse(run.model_copy(update={"student": "embedded"}))


def test_a_prompt_longer_than_the_student_takes_is_refused(run):
    config = paths.BUILD.parent / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 32}))
    with pytest.raises(InputError, match=r"problem test-0: prompt has \d+ tokens, .* takes at most 32"):
        attention.analyse(run)


def test_without_trained_arms_the_student_alone_is_measured(run):
    alone = attention.analyse(run.model_copy(update={"arms": ["undistilled"]}))
    together = attention.analyse(run).metrics.query("arm == 'undistilled'")
    pd.testing.assert_frame_equal(alone.metrics, together.reset_index(drop=True))


# --- figures and the table ---


def some_metrics(arms, prompts):
    return pd.concat(
        attention.head_metrics(causal_maps(10 * number + prompt)).assign(arm=arm, prompt=prompt)
        for number, arm in enumerate(arms)
        for prompt in range(prompts)
    )


def test_differences_are_from_the_same_head_and_prompt():
    metrics = some_metrics(["undistilled", "none"], 2)
    cell = {"prompt": 1, "layer": 2, "head": 3}
    low, high = (
        metrics.query("prompt == 1 and layer == 2 and head == 3")
        .set_index("arm")["entropy"]
        .loc[["undistilled", "none"]]
    )
    difference = attention.against(metrics, "undistilled").set_index(["arm", *cell])
    assert set(difference.index.unique("arm")) == {"none"}
    assert difference.loc[("none", *cell.values()), "entropy"] == pytest.approx(high - low)


def test_the_interval_is_students():
    assert attention.interval(pd.Series([1.0, 3.0])) == pytest.approx((2 - 12.706205, 2 + 12.706205))
    assert np.isnan(attention.interval(pd.Series([1.0]))).all()


@pytest.mark.parametrize(("prompts", "bands"), [(1, 0), (3, 2)])
def test_each_panel_has_a_line_an_arm_and_a_band_where_prompts_vary(prompts, bands):
    arms = ["undistilled", "none"]
    metrics = some_metrics(arms, prompts)
    figure = attention.layers_figure(metrics, arms)
    assert [axis.get_title() for axis in figure.axes] == list(attention.METRICS.values())
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    entropy = metrics.groupby(["arm", "layer"])["entropy"].mean()
    for arm, line in zip(arms, lines, strict=True):
        assert mpl.colors.to_rgb(line.get_color()) == pytest.approx(figures.color(arm, arms))
        assert line.get_ydata() == pytest.approx(entropy[arm].to_numpy())
    assert sum(bool(band.get_paths()) for band in figure.axes[0].collections) == bands


@pytest.mark.parametrize(("tokens", "labels"), [(9, 9), (41, 0)])
def test_heatmaps_are_heads_by_arms_and_labelled_while_legible(tokens, labels):
    arms = ["undistilled", "none", "teacher"]
    maps = {arm: causal_maps(number, layers=1, heads=2, tokens=tokens)[0] for number, arm in enumerate(arms)}
    divergent = pd.DataFrame({"layer": [5, 1, 0], "head": [0, 2, 1], "variance": [3.0, 2.0, 1.0]})
    figure = attention.heatmaps_figure(attention.Analysis(pd.DataFrame(), divergent, maps, ["$a$\n"] * tokens), arms)
    figure.canvas.draw()
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == len(arms) * 2
    assert {axis.images[0].norm.vmax for axis in shown} == {1.0}
    assert [axis.get_ylabel() for axis in shown[:: len(arms)]] == ["layer 5, head 0", "layer 1, head 2"]
    assert len(shown[0].get_yticklabels()) == labels


def test_the_table_sets_published_means_beside_ours(tmp_path, monkeypatch):
    metrics = some_metrics(["none", "undistilled"], 2)
    titles = [figures.title("undistilled"), figures.title("none")]
    (tmp_path / "prompts.yaml").write_text((paths.PARAMS / "prompts.yaml").read_text())
    (tmp_path / "published-results.yaml").write_text("attention: {entropy: {none: 1.1991}}")
    monkeypatch.setattr(paths, "PARAMS", tmp_path)
    table = attention.table(metrics, ["undistilled", "none"])
    assert table["Arm"].tolist() == titles
    assert table["Entropy (nats)"].iloc[1] == pytest.approx(metrics.query("arm == 'none'")["entropy"].mean())
    assert table["Entropy (nats), published"].fillna(0).tolist() == [0, 1.1991]


@pytest.mark.parametrize("content", [None, "table: {}"])
def test_the_table_does_without_published_means(tmp_path, monkeypatch, content):
    (tmp_path / "prompts.yaml").write_text((paths.PARAMS / "prompts.yaml").read_text())
    if content:
        (tmp_path / "published-results.yaml").write_text(content)
    monkeypatch.setattr(paths, "PARAMS", tmp_path)
    assert list(attention.table(some_metrics(["none"], 1), ["none"])) == ["Arm", *attention.METRICS.values()]
