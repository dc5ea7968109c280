"""The figures and the printed table of attribution. Intervals are over problems."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from response_priming import arms, stats, style
from response_priming.attribution.attributions import METHODS, REGIONS, Attributions, checks, shares

TITLES = METHODS | {"random": "Random order"}
CHECKS = {
    "occlusion": "Faithfulness of occlusion",
    "gradient": "Faithfulness of gradients",
    "relevance": "of AttnLRP",
    "relevance-cp": "of CP-LRP",
    "input-gradient": "of gradient times input",
    "agreement": "Rank correlation of the two",
    "gap": "Unexplained by gradients",
}


def table(result: Attributions, strategies: list[str]) -> pd.DataFrame:
    """A row a strategy: the means of `checks` with their 95 % t-intervals over problems, as text."""
    values = checks(result).groupby("strategy")[list(CHECKS)]
    rows = {strategy: values.get_group(strategy).agg(_mean) for strategy in strategies}
    shown = pd.DataFrame(rows).T.rename(index=arms.title, columns=CHECKS)
    return shown.rename_axis("Strategy").reset_index()


def _mean(values: pd.Series) -> str:
    low, high = stats.t_interval(values)
    return f"{values.mean():.2f} ({low:.2f} to {high:.2f})" if len(values) > 1 else f"{values.mean():.2f}"


def shares_figure(result: Attributions, strategies: list[str]) -> Figure:
    """Share of attribution per region, a panel a method and a bar a strategy, with 95 % t-interval over problems; white
    diamonds are the region's share of the prompt's tokens."""
    figure, panels = style.panels(1.7 * len(METHODS) + 0.5, len(METHODS), sharex=True)
    parts = shares(result.tokens)
    palette = [style.color(strategy) for strategy in strategies]
    drawn_as = {"data": parts, "x": "region", "order": REGIONS, "hue": "strategy", "hue_order": strategies}
    for axes, method in zip(panels, METHODS, strict=True):
        bars = {"palette": palette, "errorbar": stats.t_interval, "capsize": 0.2, "err_kws": {"lw": 1}}
        sns.barplot(y=method, ax=axes, legend=axes is panels[0], **drawn_as, **bars)
        marks = {"errorbar": None, "linestyle": "none", "marker": "D", "markersize": 5, "markeredgecolor": "black"}
        white, dodge = ["white"] * len(strategies), 0.8 - 0.8 / len(strategies)  # the centres of the bars
        sns.pointplot(y="tokens", ax=axes, palette=white, dodge=dodge, legend=False, **drawn_as, **marks)
        axes.set(xlabel="", ylabel="", ylim=(0, 1), title=TITLES[method])
    panels[-1].set_xticks(range(len(REGIONS)), [style.wrapped(region, 9) for region in REGIONS])
    figure.supylabel(f"Share of attribution, n = {parts['problem'].nunique()}")
    handles, _ = panels[0].get_legend_handles_labels()
    panels[0].get_legend().remove()
    style.legend(figure, dict(zip(map(arms.title, strategies), handles, strict=False)))
    return figure


def deletion_figure(result: Attributions, strategies: list[str]) -> Figure:
    """Deletion curves, a panel a strategy: log-probability of the response against the share of tokens replaced, in
    the order of each method and in random order; bands are 95 % t-intervals over problems."""
    figure, panels = style.panels(2.1 * len(strategies) + 0.4, len(strategies), squeeze=False, sharex=True, sharey=True)
    look = {"hue": "order", "style": "order", "hue_order": [*TITLES], "style_order": [*TITLES], "markers": True}
    for axes, strategy in zip(panels[:, 0], strategies, strict=True):
        curves = result.deletion[result.deletion["strategy"] == strategy]
        sns.lineplot(curves, x="fraction", y="logprob", errorbar=stats.t_interval, ax=axes, **look)
        axes.set(title=arms.title(strategy), xlabel="Share of the prompt replaced", ylabel="")
        handles, _ = axes.get_legend_handles_labels()
        axes.get_legend().remove()
    figure.supylabel(f"Log-probability a token, n = {result.deletion['problem'].nunique()}")
    style.legend(figure, dict(zip(TITLES.values(), handles, strict=True)))
    return figure
