"""What index.qmd may name with `{{< var KEY >}}`: results as the stages wrote them, settings, and where they come from.

A sentence that is not true of every profile is made here, so that one manuscript reads correctly for all of them.
"""

import itertools
import json

from response_priming import artifacts, notebooks, params, paths, style
from response_priming.compare import verdicts
from response_priming.divergences import DIVERGENCES
from response_priming.params import sections
from response_priming.report import citation

# Keys that the stages compare and attention-visualize write into their variables.json.
COMPARISON = [
    "profile",
    "seed",
    "dataset",
    "n_train",
    "n_test",
    "rule",
    "teacher",
    "student",
    "precision",
    "undistilled_accuracy",
    "undistilled_interval",
    "best_kd_arm",
    "best_kd_accuracy",
    "best_kd_interval",
    "best_kd_gain",
    "best_kd_gain_interval",
    "best_kd_p",
    "beats_undistilled",
    "none_accuracy",
    "none_interval",
    "best_primed_arm",
    "best_primed_accuracy",
    "best_primed_interval",
    "primed_gain",
    "primed_gain_interval",
    "primed_relative_gain",
    "primed_relative_gain_interval",
    "primed_p",
    "priming_verdict",
    "neutral_words",
    "fine_tuned_accuracy",
    "teacher_best_strategy",
    "teacher_best_accuracy",
    "teacher_worst_strategy",
    "teacher_worst_accuracy",
]
ATTENTION = [
    "attention_prompts",
    "attention_layers",
    "attention_heads",
    "attention_region",
    "attention_sink",
    "attention_change_metric",
    "attention_change_arm",
    "attention_change",
    "attention_test",
    "attention_seeds",
    "divergent_layer",
    "divergent_head",
]
# And those of the stages audit and claims.
AUDIT = [
    "released_n",
    "released_source",
    "released_model_card",
    "released_gain_claimed",
    "released_gain_printed",
    "released_gain",
    "released_gain_interval",
    "released_gain_points",
    "released_gain_boxing",
    "released_order_last_number",
    "released_capped",
    "released_cap",
    "released_boxed_right",
    "released_unboxed_right",
    "released_matching",
    "released_train_problems",
    "released_fine_tuned_readme",
    "released_fine_tuned_readme_count",
    "released_fine_tuned_readme_share",
    "released_confidence_readme",
    "released_confidence_readme_count",
    "released_confidence_readme_share",
    "released_control_cap",
    "released_by_hand",
    "released_scheduled_steps",
    "released_steps",
]
CLAIMS = ["claims_total", "claims_supported", "claims_not_supported", "claims_not_testable_here"]
RESULTS = {"comparison": COMPARISON, "attention": ATTENTION, "audit": AUDIT, "claims": CLAIMS}
PROVENANCE = ["command", "renderer", "git_commit", "made_on", "versions", "machine", "extras"]
DISTILL = ["alpha", "kd_temperature", "learning_rate", "train_steps", "train_batch"]
GENERATE = ["response_tokens", "top_k"]


def variables(profile: params.Profile, renderer: str) -> dict[str, str]:
    """Every value that index.qmd may name: results, settings and provenance, as text."""
    build = paths.BUILD / profile.name
    results: dict[str, str] = {}
    for folder in RESULTS:
        results |= json.loads((build / folder / "variables.json").read_text(encoding="utf-8"))
    return results | settings(profile) | _provenance(profile) | {"renderer": renderer}


def strategies_table(profile: params.Profile) -> str:
    """The profile's strategies with their prefixes, verbatim, as a table in Markdown."""
    entries = params.strategies()
    rows = [(style.title(name), entries[name]["prefix"].strip() or "(empty)") for name in profile.strategies]
    lines = ["| " + " | ".join(text.replace("|", r"\|") for text in row) + " |" for row in rows]
    return "\n".join(["| Strategy | Prefix put before the question |", f"|:{'-' * 20}|:{'-' * 60}|", *lines, ""])


def _provenance(profile: params.Profile) -> dict[str, str]:
    """Where the results come from: the manifest of the comparison, not this process."""
    made = artifacts.read(paths.BUILD / profile.name / "comparison")
    packages = ", ".join(f"{name} {made['packages'][name]}" for name in ("torch", "transformers", "peft"))
    return {
        "command": f"make paper PROFILE={profile.name}",
        "git_commit": (made["git_commit"] or "unknown")[:12],
        "versions": f"Python {made['python']}, {packages}",
        "machine": made["machine"],
        "made_on": citation.made_on(profile).isoformat(),
        "extras": extras(profile),
    }


def extras(profile: params.Profile) -> str:
    """Where two measurements are that the page does without: in notebooks of their own, where somebody ran them."""
    executed = {node.stage for node in notebooks.executed_extras(profile)}
    measured = "{} is measured in the notebook *{}*, which is linked with the others."
    absent = "{} was not measured for this page; `make {} PROFILE={}` does, and the page then links its notebook."
    asked = {
        "ladder": ("What each deviation of the released code costs", "ladder"),
        "search": ("Which training values are best on validation problems", "search"),
    }
    return " ".join(
        measured.format(what, notebooks.PAGES[stage]) if stage in executed else absent.format(what, goal, profile.name)
        for stage, (what, goal) in asked.items()
    )


def settings(profile: params.Profile) -> dict[str, str]:
    """The profile's parameters, and the sentences that depend on them."""
    distill, generate = profile.distill, profile.generate
    trained = profile.problems.n_train * (1 - distill.held_out)
    values = {key: str(getattr(distill, key)) for key in DISTILL} | {
        key: str(getattr(generate, key)) for key in GENERATE
    }
    return {
        **values,
        "answer_tokens": str(profile.evaluate.answer_tokens),
        "passes": f"{distill.train_steps * distill.train_batch / trained:.1f}",
        "optimizer": {"adamw": "AdamW", "sgd": "SGD"}[distill.optimizer],
        "divergence": DIVERGENCES[distill.divergence].words,
        "problems_setting": _problems_setting(profile.problems),
        "models_setting": _models_setting(profile),
        "teacher_setting": _teacher_setting(profile),
        "teacher_limit": _teacher_limit(profile),
        "adapter_setting": _adapter_setting(distill),
        "held_out_setting": _held_out_setting(distill),
        "overrides_setting": _overrides_setting(profile),
        "seeds_limit": _seeds_limit(profile),
        "scale_limit": _scale_limit(profile),
    }


def _problems_setting(problems: sections.Problems) -> str:
    if problems.dataset == "gsm8k":
        return (
            "The problems are those of GSM8K, grade-school word problems of two to eight steps: test problems from its "
            "test split, training problems from the beginning of its train split."
        )
    if problems.dataset == "local":
        return (
            "The problems are read from a local folder, which is not part of the project: test problems from its "
            "test.jsonl, training problems from the beginning of its train.jsonl."
        )
    return (
        "The problems are made by a seeded generator, in the form of GSM8K: short stories that ask for one sum, or for "
        f"two in a row (a share of {problems.two_step_share:g} of them), over numbers from 2 to "
        f"{problems.largest_operand}. There are only additions, so no operation has to be chosen. Training, validation "
        "and test problems share neither a story nor the pair of numbers that a story starts from."
    )


def _models_setting(profile: params.Profile) -> str:
    teacher, student = (verdicts.MODELS.get(name, name) for name in (profile.generate.teacher, profile.model.student))
    if teacher == student:
        return f"Teacher and student are the same model, {student}."
    return f"The teacher is {teacher}, the student {student}."


def _teacher_setting(profile: params.Profile) -> str:
    if not profile.generate.worked_examples:
        return "The teacher sees no worked examples, so the prefix is all that is added to the question."
    return (
        f"In its prompt the teacher also sees {profile.generate.worked_examples} solved problems of the validation "
        "split, each with the prefix before its question; they are the same problems under every strategy."
    )


def _teacher_limit(profile: params.Profile) -> str:
    if profile.generate.teacher != profile.model.student:
        return "What a student gains depends on how much better its teacher is, whatever the prefix."
    if not profile.generate.worked_examples:
        return "Teacher and student are one model, so nothing but the prefix can make the teacher better."
    return (
        "Teacher and student are one model, so a student can gain only what the prompt adds to it: the worked "
        "examples, under every strategy, and the prefix. Most of what distillation brings may come from the examples."
    )


def _adapter_setting(distill: sections.Distill) -> str:
    if distill.adapter == "full":
        return "Every trained student is the same model, all weights of which are trained"
    weights = " in 4 bits (NF4)" if distill.adapter == "qlora" else ""
    return (
        f"Every trained student is the same model{weights} with a LoRA adapter of rank {distill.lora_r} on its layers "
        f"{', '.join(distill.lora_targets)}, trained"
    )


def _held_out_setting(distill: sections.Distill) -> str:
    if not distill.held_out:
        return "All training problems are trained on."
    return (
        f"A share of {distill.held_out:g} of the training problems, the same for every arm, is held out of "
        "the training to watch it by."
    )


def _seeds_limit(profile: params.Profile) -> str:
    problems = f"The problems come from seed {profile.seed}."
    if len(profile.seeds) == 1:
        return (
            f"{problems} All chance in training comes from one training seed, {profile.seeds[0]}: the "
            "intervals cover which problems were drawn, not how another training run would have ended."
        )
    seeds = ", ".join(map(str, profile.seeds))
    return (
        f"{problems} Every trained arm has {len(profile.seeds)} students, of training seeds {seeds}. The intervals "
        "cover both the draw of problems and that of seeds, as far as so few seeds can tell."
    )


def _overrides_setting(profile: params.Profile) -> str:
    if not profile.overrides:
        return "All trained arms share these settings."
    arms = (
        f"{style.title(arm)}: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in changed.items())
        for arm, changed in profile.overrides.items()
    )
    return f"Some arms are trained differently ({'; '.join(arms)}), so more than the prefix sets them apart."


def _scale_limit(profile: params.Profile) -> str:
    if profile.model.student != "embedded":
        return (
            f"The student is {profile.model.student}; whatever holds for it need not hold for other models, other "
            "problems or other training budgets."
        )
    if profile.problems.dataset == "gsm8k":
        return (
            "The student has 135 million parameters, and a model of this size answers next to nothing on GSM8K. The "
            "numbers of this page show that every stage runs on real problems; they cannot tell the arms apart."
        )
    if profile.problems.dataset == "local":
        return (
            "The student has 135 million parameters; whatever holds for it need not hold for larger ones, or for other "
            "problems."
        )
    return (
        "The student has 135 million parameters. On GSM8K a model of this size answers next to nothing, which leaves "
        "no differences to measure, so the problems here are far easier, and of a difficulty chosen to put the arms "
        "between the floor and the ceiling. Whatever holds here need not hold for a model of 8 billion parameters on "
        "GSM8K."
    )


VARIABLES = frozenset(
    [*itertools.chain(*RESULTS.values()), *PROVENANCE, *settings(params.Profile.model_validate({"name": "laptop"}))]
)
