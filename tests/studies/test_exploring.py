"""One parameter changed, on a tiny model: what is made anew, and what it says beside the profile's own."""

import pytest
from typer.testing import CliRunner

from response_priming import compare, distill, evaluate, generate, params, paths
from response_priming.cli import app
from response_priming.errors import InputError
from response_priming.studies import exploring, read_run

SIZES = {
    "problems": {"n_train": 4, "n_test": 6},
    "generate": {"worked_examples": 0, "response_tokens": 4, "top_k": 3},
    "distill": {"train_steps": 1, "train_batch": 2, "micro_batch": 2, "warmup_steps": 0, "held_out": 0},
    "evaluate": {"answer_tokens": 3},
    "arms": ["undistilled", "none"],
}


@pytest.fixture
def profile(tmp_path, monkeypatch, tiny_model):
    """A finished run of two arms."""
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    model = {"student": str(tiny_model), "dtype": "float32", "device": "cpu"}
    values = SIZES | {"model": model, "generate": SIZES["generate"] | {"teacher": str(tiny_model)}}
    profile = params.Profile.model_validate({"name": "laptop"} | values)
    generate.respond(profile.run("generate", strategy="none"))
    distill.train(profile.run("distill", arm="none"))
    for arm in profile.arms:
        evaluate.answer(profile.run("evaluate", arm=arm))
    compare.compare(profile.run("compare"))
    return profile


def made(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*") if path.is_dir())


def test_what_a_change_reaches_is_made_anew_and_compared(profile):
    before = sorted(profile.build.rglob("*"))
    ways = {
        ("generate.response_tokens", 5): ["answers/none", "responses/none", "scores/none", "students/none"],
        ("distill.train_steps", 2): ["answers/none", "scores/none", "students/none"],
        ("evaluate.answer_tokens", 4): ["answers/none", "scores/none"],
    }
    for (name, value), wanted in ways.items():
        folder = exploring.explore(profile, profile.changed(name, value), "none")
        assert made(folder) == wanted
    assert sorted(path for path in profile.build.rglob("*") if "explored" not in path.parts) == before
    found = exploring.tried(profile)
    assert {name: len(said) for name, said in found.items()} == {name.split(".")[1]: 1 for name, _ in ways}
    assert found["train_steps"][0].startswith("2 (KD, no prompt): +0.0 points (")


def test_the_command_says_what_the_change_gains(profile, monkeypatch):
    monkeypatch.setattr(params, "load", lambda _: profile)
    for setting in ("distill.alpha=0.25", "distill.optimizer=sgd"):
        done = CliRunner().invoke(app, ["explore", setting])
        assert done.exit_code == 0, done.output
        assert f"KD, no prompt: 0.0 %, with {setting} 0.0 %: +0.0 points, 95 % interval 0.0 to 0.0" in done.output


def test_an_untrained_arm_and_more_seeds_are_explored(profile):
    folder = exploring.explore(profile, profile.changed("problems.n_test", 7), "undistilled")
    assert len(read_run(str(folder)).problems) == 7
    folder = exploring.explore(profile, profile.changed("seeds", [0, 1]), "none")
    assert read_run(str(folder)).seeds == 2


def test_what_cannot_be_explored_is_named(profile):
    with pytest.raises(InputError, match="arm 'teacher': not in profile laptop; allowed: undistilled, none"):
        exploring.explore(profile, profile, "teacher")
    with pytest.raises(InputError, match="arm 'none': nothing of it is made with what was changed"):
        exploring.explore(profile, profile.changed("evaluate.rule", "hash"), "none")


@pytest.mark.parametrize("name", ["distill.beta", "alpha", "name", "seed.alpha", "distill"])
def test_an_unknown_parameter_is_named(name):
    with pytest.raises(InputError, match=f"{name}: unknown parameter"):
        params.load("laptop").changed(name, 1)


def test_a_value_that_is_not_allowed_is_named():
    with pytest.raises(InputError, match=r"distill.alpha = 2: input should be less than or equal to 1"):
        params.load("laptop").changed("distill.alpha", 2)
