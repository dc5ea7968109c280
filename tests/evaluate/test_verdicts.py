import json

import pytest

from response_priming import arms, artifacts, params, paths, stats
from response_priming.evaluate import verdicts

LAPTOP = params.load("laptop")


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    return tmp_path / "laptop"


def fixed(arm, **changed):
    return verdicts.fix(LAPTOP.run("evaluate", arm=arm).model_copy(update=changed))


def test_the_rules_are_written_once_for_all_arms(build):
    made = {arm: fixed(arm) for arm in LAPTOP.arms}
    assert set(made.values()) == {build / "rules"}
    said = json.loads((build / "rules" / "rules.json").read_text())
    assert said["rules"] == verdicts.__doc__
    assert said["primary"] == [["ground-truth", "none"], ["ground-truth", "constant-prefix"]]
    assert (said["n_test"], said["seeds"]) == (LAPTOP.problems.n_test, LAPTOP.seeds)
    assert list(artifacts.read(build / "rules")["outputs"]) == ["rules.json"]


def test_other_rules_or_another_design_have_another_digest_and_date(build, monkeypatch):
    def digest():
        return artifacts.read(build / "rules")["outputs"]["rules.json"]

    fixed("none")
    first = digest()
    fixed("none", seeds=[0, 1, 2])
    assert digest() != first
    fixed("none")
    assert digest() == first
    monkeypatch.setitem(stats.FEWEST, "seeds", (2, "students an arm"))
    fixed("none")
    assert digest() != first


def test_the_rules_are_there_before_the_first_answer(build, monkeypatch):
    from response_priming.evaluate import answers

    class AskedError(Exception):
        pass

    def respond(*_):
        assert (build / "rules" / "rules.json").exists()
        raise AskedError

    monkeypatch.setattr(answers, "answers_to", respond)
    run = LAPTOP.run("evaluate", arm=arms.UNDISTILLED)
    with pytest.raises(AskedError):
        answers.answer(run)
    beside = run.placed(build / "ladder" / "released")
    (build / "rules" / "rules.json").unlink()
    monkeypatch.setattr(answers, "answers_to", lambda *_: (_ for _ in ()).throw(AskedError))
    with pytest.raises(AskedError):
        answers.answer(beside)
    assert not (build / "rules" / "rules.json").exists()
