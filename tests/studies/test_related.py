import json
import shutil
from typing import Any, ClassVar

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from pydantic import PrivateAttr
from safetensors.torch import load_file

from response_priming import artifacts, distill, evaluate, generate, models, notebooks, params, paths, style
from response_priming.attribution import tracing
from response_priming.distill import training
from response_priming.errors import InputError
from response_priming.methods import base, knowledge
from response_priming.problems import Problem
from response_priming.studies import figures, related

SIZES = {"n_train": 4, "train_steps": 2, "train_batch": 2, "micro_batch": 2, "train_tokens": 400, "warmup_steps": 0}
SMALL = {"n_test": 3, "answer_tokens": 3, "held_out": 0.25, "learning_rate": 0.01, "worked_examples": 0, "top_k": 3}
METHODS = [name for name in params.RelatedRun().related_methods if name not in related.EXPLAINS]


@pytest.fixture
def run(make_run, monkeypatch):
    """A run of all methods, and the responses that they learn from; no method takes more steps than the others."""
    for kind in map(base.find, METHODS):
        few = SIZES if "train_steps" in kind.base else {}
        monkeypatch.setattr(kind, "base", {key: few.get(key, value) for key, value in kind.base.items()})
    generate.respond(make_run("generate", strategy="none", n_train=4, worked_examples=0, response_tokens=4, top_k=3))
    # A random model writes no problem.
    monkeypatch.setattr(knowledge, "parsed", lambda name, _: Problem(name, f"Kim has {name}.", "1 + 1 = 2", "2"))
    return make_run("related", **SIZES, **SMALL, response_tokens=4, related_controls=2)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is_and_its_controls_are_methods_with_one_other_value(name):
    kind = base.find(name)
    assert kind.title != base.Method.title
    own = base.described(name)["parameters"]
    assert len(kind.controls) >= 2
    for changed in kind.controls.values():
        other = base.described(name, changed)["parameters"]
        assert [key for key in own if own[key] != other[key]] == [*changed]


def test_an_unknown_method_is_one_line(make_run):
    with pytest.raises(InputError, match=r"method 'minilm': there is no minilm.py in methods/"):
        related.rows(make_run("related", related_methods=["minilm"]))


def test_the_rows_are_made_once_in_folders_of_their_own_and_one_table_compares_them(run, monkeypatch):
    table, gains = related.compare(run)
    assert table["row"].tolist()[:3] == ["fine-tuned", "none", "shuffled"]
    for name in run.related_methods:
        rows = table[(table["row"] == name) | (table["of"] == name)]
        if name not in METHODS:
            assert rows["verdict"].tolist() == ["trains nothing; see its section"]
            assert rows["accuracy"].isna().all()
            continue
        assert len(rows) == 1 + 2
        assert (rows["accuracy"].notna() & (rows["cpu_seconds"] > 0) & (rows["active"] > 0)).all()
        assert rows["mechanism"].iloc[0]
        assert set(gains.loc[gains["arm"] == name, "baseline"]) == {*rows["row"][1:], "none"}
        assert np.isfinite(rows["control_points"].iloc[0])
        folder = run.output / "related" / name / "students"
        assert json.loads(next(folder.glob("*/seed-0/method.json")).read_text())["active"] > 0
        assert not list(folder.rglob("beside.pt"))
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("made again"))
    again, _ = related.compare(run)
    assert again.equals(table)
    curves = related.rounds(run)
    assert curves["title"].nunique() * 3 == len(curves)
    assert curves["round"].tolist() == [1, 2, 3] * curves["title"].nunique()
    last = curves[curves["round"] == 3].set_index("title")
    assert last["accuracy"].equals(table.set_index("title").loc[last.index, "accuracy"])
    assert "ELAD" in style.printed(curves, "rounds").to_html()
    assert "trains nothing" in style.printed(table, "related").to_html()
    assert style.printed(table, "related-costs").to_html()
    assert style.printed(gains, "gains").to_html()
    assert len(figures.related_figure(table).axes) == 1


def test_references_are_taken_from_where_the_arms_are(run, make_run):
    values = run.model_dump()
    for arm in ("fine-tuned", "none", "shuffled"):
        distill.train(params.DistillRun.of(values | {"arm": arm}))
        evaluate.answer(params.EvaluateRun.of(values | {"arm": arm}))
    few = make_run("related", **values | {"related_methods": ["lrp"]})
    related.compare(few)
    assert not (few.output / "related").exists()


def test_a_student_that_is_not_trained_has_a_row_and_what_it_is_asked_with_counts(run, monkeypatch):
    kind = base.find("retrikt")
    assert kind.controls["undistilled"] == {"trained": False}
    monkeypatch.setattr(kind, "controls", {"undistilled": {"trained": False}})
    table = related.compare(params.RelatedRun.of(run.model_dump() | {"related_methods": ["retrikt"]}))[0]
    row, method = (table.set_index("row").loc[name] for name in ("retrikt-undistilled", "retrikt"))
    assert (row["steps"], row["leaks"]) == (0, 0)
    assert 0 < row["cpu_seconds"] < method["cpu_seconds"]
    assert row["teacher_generated"] > 0
    assert row["active"] > 0
    assert np.isnan(row["peak_mib"])
    place = run.output / "related" / "retrikt-undistilled"
    assert not (place / "students").exists()
    recipe = json.loads((place / "answers/undistilled/seed-0/manifest.json").read_text())["recipe"]
    assert [*recipe["inputs"]] == ["related/retrikt/knowledge"]
    assert recipe["parameters"]["method"]["parameters"]["trained"] is False


# --- the steps of a method ---


class Beside(base.Method):
    """A method that trains a number beside the student, and counts what it reads."""

    rate: float = 0.5
    _number: Any = PrivateAttr(None)

    def beside(self):
        torch.manual_seed(1)
        self._number = torch.nn.Linear(1, 1)
        return self._number

    @property
    def beside_rate(self):
        return self.rate

    def batch(self, model, batch, **at):  # noqa: ARG002
        self.spent["teacher_read"] += len(batch["problem_ids"])
        return batch

    def loss(self, model, batch, **counts):
        loss = super().loss(model, batch, **counts)
        return loss._replace(total=loss.total + self._number(torch.ones(1)).square().sum())


class Grown(base.Method):
    """A method that copies the arm's store, and begins each round with the student of the one before."""

    arm = "none"
    writes = True
    before = "fine-tuned"
    controls: ClassVar = {"once": {"count": 1}}
    count: int = 2
    seen: ClassVar = []

    @property
    def rounds(self):
        return [{"count": number} for number in range(1, self.count)]

    def prepare(self):
        self.seen.append((self.count, self.run.before.relative_to(self.run.build).as_posix()))
        if not self.run.store.exists():
            shutil.copytree(self.run.build / "responses/none", self.run.store)
        shared = self.run.output.parent / "self-features" / f"part-{self.count}"
        recipe = artifacts.decided_by("related", {"count": self.count}, [], code=["methods.base"])
        spent, numbers = {"teacher_read": 1000 * self.count, "student_generated": 7}, {"right": 0.5 * self.count}
        return [artifacts.made(shared, recipe, lambda to: base.note(to, spent, leaks=self.count, numbers=numbers))]


def test_a_method_writes_its_store_and_begins_with_the_student_of_another_row(run, monkeypatch):
    monkeypatch.setattr(base, "find", lambda _: Grown)
    grown = params.RelatedRun.of(run.model_dump() | {"related_methods": ["self-features"], "related_controls": 1})
    table, gains = related.compare(grown)
    assert table["row"].tolist()[3:] == ["self-features", "self-features-once"]
    assert gains["baseline"].tolist() == ["self-features-once", "none"]
    first, second = (
        "related/fine-tuned/students/fine-tuned/seed-0",
        "related/self-features-round-1/students/none/seed-0",
    )
    assert Grown.seen == [(1, first), (2, second), (1, first)]
    taken = table.set_index("row")["cpu_seconds"]
    parent, own = (
        json.loads((grown.build / path / "manifest.json").read_text())["cpu_seconds"] for path in (first, second)
    )
    assert taken["self-features"] > parent + own
    # What was prepared for the earlier student counts as well; leaks and numbers are those of the student's own.
    costs = table.set_index("row").loc[["none", "self-features", "self-features-once"]]
    assert (costs["teacher_read"] - costs["teacher_read"].iloc[0]).tolist() == [0, 3000, 1000]
    assert costs["student_generated"].tolist() == [0, 14, 7]
    assert costs["leaks"].tolist()[1:] == [2, 1]
    assert np.isnan(costs["leaks"].iloc[0])
    assert costs["mechanism"].tolist() == ["", "right 1", "right 0.5"]
    recipe = json.loads((grown.build / second / "manifest.json").read_text())["recipe"]
    assert {first, "related/self-features-round-1/responses/none"} <= {*recipe["inputs"]}


def weights_of(run):
    return load_file(run.folders[0].path / "adapter_model.safetensors")


def test_the_default_method_trains_as_no_method_does_bit_for_bit(make_run, monkeypatch):
    monkeypatch.setattr(base, "find", lambda _: base.Method)
    run = make_run("distill", arm="fine-tuned", **SIZES)
    described = {"name": "self-features", "version": 1, "parameters": {}}
    plain, other = run.placed(run.build / "a"), run.placed(run.build / "b").by(described)
    one, two = distill.train(plain), distill.train(other)
    assert one["loss"].equals(two["loss"])
    mine, theirs = weights_of(plain), weights_of(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("rate", [0.5, 0.0])
def test_what_is_trained_beside_a_student_goes_on_from_a_checkpoint_and_stays_there(make_run, monkeypatch, rate):
    monkeypatch.setattr(base, "find", lambda _: Beside)
    run = make_run("distill", arm="fine-tuned", **SIZES | {"train_steps": 4}, save_every=1)
    described = {"name": "self-features", "version": 1, "parameters": {"rate": rate}}
    kept, on_save = [], training.Beside.on_save

    def noted(self, args, state, *rest, **known):
        on_save(self, args, state, *rest, **known)
        kept.append((state.global_step, {name: weight.clone() for name, weight in self.weights.items()}))
        if stopping and state.global_step == 2:
            training._Sealed(artifacts.Stopwatch()).on_save(args, state, *rest)
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Beside, "on_save", noted)
    stopping = False
    whole = run.placed(run.build / "whole").by(described)
    distill.train(whole)
    straight, kept[:] = list(kept), []
    stopping, halted = True, run.placed(run.build / "halted").by(described)
    with pytest.raises(KeyboardInterrupt):
        distill.train(halted)
    stopping = False
    distill.train(halted)
    assert [step for step, _ in kept] == [1, 2, 3, 4]
    for (_, one), (_, two) in zip(straight, kept, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    moved = not torch.equal(straight[0][1]["bias"], straight[-1][1]["bias"])
    assert moved == (rate > 0)
    assert all(torch.equal(weights_of(whole)[key], value) for key, value in weights_of(halted).items())
    spent = [json.loads((one.folders[0].path / "method.json").read_text())["spent"] for one in (whole, halted)]
    assert spent == [{"teacher_read": 8}, {"teacher_read": 8}]
    plain = run.placed(run.build / "plain")
    distill.train(plain)
    assert weights_of(plain).keys() == weights_of(whole).keys()


def test_the_advice_says_what_the_tables_say():
    kd = {
        "row": "none",
        "title": "KD, no prompt",
        "accuracy": 0.4,
        "cpu_seconds": 100.0,
        "active": 10,
        "teacher_accuracy": 0.6,
    }
    kd |= {"n": 400, "seeds": 1}
    tuned = kd | {
        "row": "fine-tuned",
        "title": "Fine-tuned",
        "accuracy": 0.7,
        "teacher_accuracy": np.nan,
        "source": np.nan,
    }
    ends = {"control_low": 1.0, "control_high": 9.0, "kd_points": 3.0, "kd_low": -2.0, "kd_high": 8.0}
    okd = (
        kd
        | ends
        | {"row": "okd", "title": "OKD", "source": "1", "accuracy": 0.43, "cpu_seconds": 250.0, "control_points": 5.0}
    )
    cut = tuned | ends | {"row": "moebert", "title": "MoE *BERT*", "source": "2", "accuracy": 0.72, "active": 6}
    cut |= {"control_points": -4.0, "control_low": -9.0}
    control = okd | {"row": "okd-frozen", "title": "OKD: frozen", "source": np.nan}
    gains = pd.DataFrame({"lacks": ["students an arm: 1 of 3 needed", ""]})
    said = " ".join(figures.advice(pd.DataFrame([tuned, kd, okd, control, cut]), gains).split())
    assert "scores 70.0 % for 100 CPU seconds, plain distillation (KD) 40.0 % for 100" in said
    assert "Of 2 methods 1 scores more: MoE &#42;BERT&#42;." in said
    assert "OKD scores most, 43.0 % (+3.0 points, -2.0 to 8.0 over KD), for 2.5 times the CPU time of KD" in said
    assert "MoE &#42;BERT&#42; reads a token with 60 % of the parameters and scores 72.0 %" in said
    assert (
        "of 2 methods, 1 gains over it by an interval that excludes 0: OKD (+5.0 points, 1.0 to 9.0), and 1 scores less"
        in said
    )
    assert "400 problems and one student an arm; a verdict takes more (students an arm: 1 of 3 needed)" in said
    none = " ".join(figures.advice(pd.DataFrame([tuned, kd]), gains[1:]).split())
    assert "None of 0 methods scores more." in none
    assert "With a teacher alone" not in none
    assert none.endswith("400 problems and one student an arm.")


def test_the_notebook_runs_to_its_end(run, monkeypatch):
    monkeypatch.setattr(notebooks, "require", lambda _: None)
    monkeypatch.setattr(tracing, "UPDATES", 2)
    shell, shown = InteractiveShell.instance(), []
    for cell in nbformat.read(paths.NOTEBOOKS / "related.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            done = shell.run_cell(cell.source)
            done.raise_error()
            shown += [done.result] if "#| label" in cell.source else []
            if "parameters" in cell.metadata.get("tags", ()):
                shell.push(run.model_dump())
    assert [type(one) for one in shown] == [Styler, Figure, *[Styler] * 5]
