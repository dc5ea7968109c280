"""The controls and the released training, from profile to claims: every stage of the plan, without notebooks."""

import shutil

import pytest
import yaml
from safetensors.torch import load_file

from response_priming import artifacts, claims, notebooks, params, paths
from response_priming.attention import analysis
from response_priming.audit import findings
from response_priming.compare import comparison, figures
from response_priming.distill import training
from response_priming.evaluate import answers
from response_priming.generate import prompt_signals, teacher
from response_priming.report import variables

ARMS = ["undistilled", "none", "shuffled", "constant-prefix", "published-none"]
STAGES = {
    "generate": teacher.respond,
    "prompt-signals": prompt_signals.score,
    "distill": training.train,
    "evaluate": answers.answer,
    "attention-visualize": analysis.analyse,
    "compare": comparison.compare,
    "audit": findings.audit,
    "claims": claims.claims,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    """What each stage of a small profile with these arms returned, by name of its notebook."""
    root = tmp_path_factory.mktemp("arms")
    shutil.copytree(paths.PARAMS, root / "params")
    profile = {
        "arms": ARMS,
        "problems": {"n_train": 6, "n_test": 4},
        "model": {"student": str(tiny_model), "dtype": "float32", "device": "cpu"},
        "generate": {"teacher": str(tiny_model), "worked_examples": 1, "response_tokens": 8, "generate_batch": 6},
        "distill": {"train_steps": 2, "train_batch": 2, "micro_batch": 2, "learning_rate": 0.02},
        "evaluate": {"answer_tokens": 8, "evaluate_batch": 4},
        "attention": {"attention_prompts": 2},
    }
    (root / "params" / "small.yaml").write_text(yaml.safe_dump(profile))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PARAMS", root / "params")
        patch.setattr(paths, "BUILD", root / "build")
        yield {node.name: STAGES[node.stage](node.run) for node in notebooks.nodes(params.load("small"))}


def adapter(arm):
    return load_file(paths.BUILD / "small" / "students" / arm / "seed-0" / "adapter_model.safetensors")


def test_every_arm_is_scored_and_compared_in_the_order_of_the_profile(made):
    assert made["compare"].accuracy["arm"].tolist() == ARMS
    assert set(made["attention-visualize"].metrics["arm"]) == set(ARMS)
    assert figures.shown(made["compare"], "accuracy").to_html().count("as released") == 1


def test_arms_with_one_teacher_share_its_responses(made):
    assert {name for name in made if name.startswith(("generate", "prompt-signals"))} == {
        "generate-none",
        "generate-constant-prefix",
        "prompt-signals-none",
    }


@pytest.mark.usefixtures("made")
def test_every_arm_makes_another_student():
    students = [adapter(arm) for arm in ARMS[1:]]
    shared = set.intersection(*(set(student) for student in students))
    down = next(name for name in shared if "lora_B" in name)
    assert len({students[place][down].numpy().tobytes() for place in range(len(students))}) == len(students)


def test_the_published_arm_is_trained_as_released_on_the_signals_of_prompts(made):
    folder = paths.BUILD / "small" / "students" / "published-none" / "seed-0"
    recipe = artifacts.read(folder)["recipe"]
    assert recipe["inputs"].keys() == {"prompt-signals/none"}
    assert (recipe["parameters"]["optimizer"], recipe["parameters"]["lora_r"]) == ("sgd", 4)
    assert len(made["distill-published-none"]) == 2 * 2


def test_no_control_counts_as_primed(made):
    compared = made["compare"]
    assert variables.headline(compared.accuracy, compared.gains, compared.teacher)["best_primed"] is None
    assert made["attention-visualize"].tests.empty
    assert set(made["claims"]["verdict"]) == {claims.UNTESTABLE}
