"""How the students' attention differs: four numbers a head, the heads that differ most, and their figures.

The numbers are those of Goyal et al. 2024 (arXiv 2412.17846): entropy, "self-attention focus" (the diagonal),
"sparsity" (a share above a threshold, so really a density, and called that here) and similarity across layers. The
released analysis takes one prompt, skips the last layer and puts the adapters into a model they were not trained on;
this one takes several prompts and every layer, and refuses another student's adapters. Layers and heads count from 0.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import yaml
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from peft import PeftModel
from scipy import stats
from scipy.special import entr
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from response_priming import figures, manifest, models, params, paths, priming, problems
from response_priming.errors import InputError

METRICS = {
    "entropy": "Entropy (nats)",
    "diagonal": "Diagonal",
    "density": "Density",
    "similarity": "Similarity to the layer below",
}
DENSE = 0.1  # entries above this are counted by the density
MOST_LABELS = 40  # tokens; more would not be legible beside a heatmap
NOT_IN_RECIPE = {"profile", "n_train", "n_test", "data_dir"}


@dataclass(frozen=True)
class Analysis:
    """What the stage wrote.

    `metrics`: arm, prompt and the columns of `head_metrics`. `divergent`: those of `divergent_heads`, means over
    prompts. `maps`: per arm the first prompt's maps of the first few divergent heads, [heads, tokens, tokens].
    `tokens`: the first prompt as text.
    """

    metrics: pd.DataFrame
    divergent: pd.DataFrame
    maps: dict[str, NDArray[np.float32]]
    tokens: list[str]


# --- numbers ---


def head_metrics(maps: Any) -> pd.DataFrame:
    """The four numbers of each head, from maps [layers, heads, tokens, tokens]; rows are queries, and causal.

    Columns: layer; head; `entropy` (nats) and `diagonal`, means over rows; `density`, the share of entries above 0.1
    among all tokens x tokens entries, causal zeros included, as the released code counts; `similarity`, the cosine of
    the flattened map with that of the same head one layer below, NaN at the first layer. For all but the cosine, rows
    are renormalised to sum to 1, which bf16 rows do not.
    """
    raw = torch.as_tensor(maps, dtype=torch.float64).numpy(force=True)
    rows = raw / raw.sum(axis=-1, keepdims=True)
    flat = raw.reshape(*raw.shape[:2], -1)
    norm = np.linalg.norm(flat, axis=-1)
    similarity = np.full_like(norm, np.nan)
    similarity[1:] = np.einsum("lhp,lhp->lh", flat[1:], flat[:-1]) / (norm[1:] * norm[:-1])
    return _by_head(
        entropy=entr(rows).sum(axis=-1).mean(axis=-1),
        diagonal=np.diagonal(rows, axis1=-2, axis2=-1).mean(axis=-1),
        density=(rows > DENSE).mean(axis=(-2, -1)),
        similarity=similarity,
    )


def divergent_heads(maps_by_arm: Mapping[str, Any]) -> pd.DataFrame:
    """Per layer and head the variance across arms, mean over all tokens x tokens positions; largest first.

    `maps_by_arm` holds an array [layers, heads, tokens, tokens] of the same prompt for each arm.
    """
    maps = np.stack([np.asarray(one, dtype=np.float32) for one in maps_by_arm.values()])
    return _largest_first(_by_head(variance=maps.var(axis=0, dtype=np.float64).mean(axis=(-2, -1))))


def _by_head(**values: NDArray[np.float64]) -> pd.DataFrame:
    """One row a head from arrays [layers, heads]."""
    layer, head = np.indices(next(iter(values.values())).shape)
    return pd.DataFrame({"layer": layer.ravel(), "head": head.ravel()} | {k: v.ravel() for k, v in values.items()})


def _largest_first(heads: pd.DataFrame) -> pd.DataFrame:
    return heads.sort_values("variance", ascending=False, kind="stable", ignore_index=True)


# --- maps ---


def attend(model: Any, input_ids: Sequence[int]) -> NDArray[np.float32]:
    """The model's attention maps of one prompt, [layers, heads, tokens, tokens].

    Sets the model's attention implementation to eager, the only one that has maps. Hooks take each layer's map off the
    device as it is made, so that no more than one layer's stays there.
    """
    model.set_attn_implementation("eager")
    maps: list[NDArray[np.float32]] = []

    def keep(_module: Any, _arguments: Any, output: Any) -> None:
        maps.append(output[1][0].float().numpy(force=True))

    layers = (module for module in model.modules() if type(module).__name__.endswith("Attention"))
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.inference_mode():
            model(torch.tensor([list(input_ids)], device=model.device), use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    return np.stack(maps)


def attend_arms(model: Any, arms: Sequence[str], input_ids: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """The maps of one prompt for each arm, by switching the adapters of one model."""
    maps = {}
    for arm in arms:
        with _switched(model, arm):
            maps[arm] = attend(model, input_ids)
    return maps


def _switched(model: Any, arm: str) -> AbstractContextManager[None]:
    if arm != params.UNDISTILLED:
        model.set_adapter(arm)
    elif isinstance(model, PeftModel):
        return model.disable_adapter()
    return nullcontext()


def load_students(run: params.AttentionRun) -> tuple[Any, PreTrainedTokenizerBase]:
    """The student, loaded once, with the adapter of every trained arm attached under the arm's name; its tokenizer."""
    model: Any
    model, tokenizer = models.load(run.student, revision=run.student_revision, dtype=run.dtype, device=run.device)
    for arm, folder in adapters(run).items():
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=arm)
        else:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=arm)
    return model.eval(), tokenizer


def adapters(run: params.AttentionRun) -> dict[str, Path]:
    """The adapter folder of each trained arm; `InputError` where one is missing or was trained on another student."""
    folders = {arm: run.adapter_of(arm, run.seeds[0]) for arm in run.arms if arm != params.UNDISTILLED}
    for folder in folders.values():
        trained = manifest.read(folder)["recipe"]["parameters"]
        for key in {"student", "student_revision"} & trained.keys():
            found, wanted = trained[key], getattr(run, key)
            if found != wanted:
                raise InputError(
                    f"{paths.shown(folder)}: trained with {key} = {found!r}, must be this run's {wanted!r}"
                )
    return folders


# --- the stage ---


def analyse(run: params.AttentionRun) -> Analysis:
    """Measure every arm's attention on the first test problems, asked as they are evaluated: the bare question.

    Raises:
        InputError: an adapter is missing or of another student, or a prompt is longer than the student takes.
    """
    folder = run.output / "attention"
    recipe = manifest.recipe(
        run.stage,
        run.model_dump(exclude=NOT_IN_RECIPE)
        | {"data": problems.fingerprint(run), "weights": models.fingerprint(run.student, run.student_revision)},
        list(adapters(run).values()),
        code="attention",
    )
    if not manifest.is_current(folder, recipe):
        with manifest.writing(folder, recipe) as aside:
            _write(aside, run)
    return read(folder)


def _write(folder: Path, run: params.AttentionRun) -> None:
    model, tokenizer = load_students(run)
    prompts = _prompts(run, tokenizer, model.config)
    metrics, divergent = measure(model, run.arms, prompts)
    # Which heads to show is known only now; asking again costs a second, and no other head's maps had to be kept.
    shown = tuple(divergent.head(run.heatmaps)[["layer", "head"]].to_numpy().T)
    maps = {arm: every[shown] for arm, every in attend_arms(model, run.arms, prompts[0]).items()}
    tokens = np.array([tokenizer.decode([token]) for token in prompts[0]])
    np.savez_compressed(folder / "maps.npz", tokens=tokens, **maps)
    metrics.to_parquet(folder / "metrics.parquet", index=False)
    divergent.to_parquet(folder / "divergent.parquet", index=False)
    variables = {f"attention_{name}s": str(metrics[name].nunique()) for name in ("prompt", "layer", "head")}
    variables |= {f"divergent_{name}": str(divergent[name].iloc[0]) for name in ("layer", "head")}
    (folder / "variables.json").write_text(json.dumps(variables, indent=1), encoding="utf-8")


def _prompts(run: params.AttentionRun, tokenizer: PreTrainedTokenizerBase, config: Any) -> list[list[int]]:
    prompts = []
    for problem in problems.load(run, "test", run.attention_prompts, seed=run.seed):
        prompt = priming.encode(tokenizer, priming.messages(problem.question, system_prompt=run.system_prompt))
        limit = getattr(config, "max_position_embeddings", len(prompt))
        if len(prompt) > limit:
            raise InputError(
                f"problem {problem.id}: prompt has {len(prompt)} tokens, {run.student} takes at most {limit}"
            )
        prompts.append(prompt)
    return prompts


def measure(model: Any, arms: Sequence[str], prompts: Sequence[Sequence[int]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`metrics` and `divergent` of an `Analysis`; holds the maps of one prompt at a time."""
    metrics, variances = [], []
    for number, prompt in enumerate(tqdm(prompts, desc="attention", unit="prompt")):
        maps = attend_arms(model, arms, prompt)
        metrics += [head_metrics(maps[arm]).assign(arm=arm, prompt=number) for arm in arms]
        variances.append(divergent_heads(maps))
    means = pd.concat(variances).groupby(["layer", "head"])[["variance"]].mean().reset_index()
    columns = ["arm", "prompt", "layer", "head", *METRICS]
    return pd.concat(metrics, ignore_index=True)[columns], _largest_first(means)


def read(folder: Path) -> Analysis:
    """What `analyse` wrote; `InputError` where the folder is not complete."""
    manifest.read(folder)
    with np.load(folder / "maps.npz") as arrays:
        maps = dict(arrays)
    tokens = maps.pop("tokens").tolist()
    metrics, divergent = (pd.read_parquet(folder / f"{name}.parquet") for name in ("metrics", "divergent"))
    return Analysis(metrics, divergent, maps, tokens)


# --- figures and the table ---


def against(metrics: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The same numbers minus those of the reference arm for the same prompt, layer and head; without that arm."""
    values = metrics.set_index(["prompt", "layer", "head", "arm"])
    return values.sub(values.xs(reference, level="arm")).drop(index=reference, level="arm").reset_index()


def interval(values: pd.Series) -> tuple[float, float]:
    """95 % t-interval of the mean; NaN for a single value."""
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1) if len(values) > 1 else np.nan
    return values.mean() - half, values.mean() + half


def layers_figure(metrics: pd.DataFrame, arms: list[str], quantity: str = "Mean") -> Figure:
    """The four numbers across layers: a line an arm (mean over heads, then prompts), a band of 95 % t-interval over
    prompts. `arms` is the profile's list, for colours and order; arms that `metrics` lacks are left out."""
    lines = metrics.groupby(["arm", "prompt", "layer"])[list(METRICS)].mean().rename(columns=METRICS)
    shown = [arm for arm in arms if arm in lines.index.unique("arm")]
    grid = sns.relplot(
        lines.melt(var_name="metric", ignore_index=False).rename(index=figures.title, level="arm").reset_index(),
        x="layer", y="value", col="metric", col_wrap=2, kind="line", errorbar=interval, height=2.9, aspect=1.5,
        hue="arm", hue_order=[figures.title(arm) for arm in shown],
        palette=[figures.color(arm, arms) for arm in shown],
        style="arm", style_order=[figures.title(arm) for arm in shown], dashes=False,
        markers=[figures.marker(arm, arms) for arm in shown], markersize=4, linewidth=1.2, err_kws={"alpha": 0.12},
        facet_kws={"sharey": False},
    )  # fmt: skip
    grid.set_titles("{col_name}").set_axis_labels("Layer", f"{quantity}, n = {metrics['prompt'].nunique()}")
    sns.move_legend(grid, "lower center", bbox_to_anchor=(0.42, 1.0), ncols=3, title=None)
    return cast("Figure", grid.figure)


def heatmaps_figure(analysis: Analysis, arms: list[str]) -> Figure:
    """The first prompt's maps of the most divergent heads: a row a head, a column an arm, one colour scale."""
    heads, size = len(analysis.maps[arms[0]]), len(analysis.tokens)
    figure = plt.figure(figsize=(1.5 * len(arms) + 1.2, 1.6 * heads + 0.6), layout="constrained")
    axes = figure.subplots(heads, len(arms), squeeze=False, sharex=True, sharey=True)
    # A square-root scale: most of the weight lies on the first token, and a linear scale would show nothing else.
    norm = PowerNorm(0.5, vmin=0, vmax=max(float(maps.max()) for maps in analysis.maps.values()))
    future = np.triu(np.ones((size, size), dtype=bool), k=1)
    for (row, column), axis in np.ndenumerate(axes):
        weights = np.where(future, np.nan, analysis.maps[arms[column]][row])  # NaN is drawn blank
        image = axis.imshow(weights, norm=norm, cmap="viridis", interpolation="nearest")
        _label_tokens(axis, analysis.tokens)
    for axis, arm in zip(axes[0], arms, strict=True):
        axis.set_title(figures.title(arm), fontsize=8)
    for axis, layer, head in zip(axes[:, 0], analysis.divergent["layer"], analysis.divergent["head"], strict=False):
        axis.set_ylabel(f"layer {layer}, head {head}", fontsize=8)
    figure.supxlabel("Token attended to", fontsize=9)
    figure.supylabel("Token that attends", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8).set_label("Attention weight (square-root scale)", size=9)
    return figure


def _label_tokens(axis: Any, tokens: list[str]) -> None:
    """The tokens at both axes where they are few enough to read, else no ticks."""
    labels = [repr(token)[1:-1] for token in tokens] if len(tokens) <= MOST_LABELS else []
    axis.set_xticks(range(len(labels)), labels, fontsize=4, rotation=90, parse_math=False)
    axis.set_yticks(range(len(labels)), labels, fontsize=4, parse_math=False)
    axis.grid(visible=False)


def table(metrics: pd.DataFrame, arms: list[str]) -> pd.DataFrame:
    """Means over prompts, layers and heads, a row an arm; beside them the published ones, NaN where there is none."""
    means = metrics.groupby("arm")[list(METRICS)].mean().reindex(arms).rename(columns=METRICS)
    for metric, published in _published().items():
        means[f"{METRICS[metric]}, published"] = pd.Series(published, dtype=float).reindex(arms)
    return means.rename(index=figures.title).rename_axis("Arm").reset_index()


def _published() -> dict[str, dict[str, float]]:
    """The published means of params/published-results.yaml: metric -> arm -> value; empty where it has none."""
    file = paths.PARAMS / "published-results.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
    return dict(content.get("attention", {}))
