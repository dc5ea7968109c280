"""What the README shows is done here: its blocks are applied to a copy of params/, its results and errors looked up."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from response_priming import arms, params, paths, problems
from response_priming.distill import training
from response_priming.evaluate import answers
from response_priming.generate import teacher
from response_priming.params import divergences

TEXT = (paths.ROOT / "README.md").read_text(encoding="utf-8")
SIZES = {
    "problems": {"n_train": 4, "n_test": 4},
    "model": {"dtype": "float32", "device": "cpu"},
    "generate": {"worked_examples": 1, "response_tokens": 4},
    "distill": {"train_steps": 1, "train_batch": 2, "micro_batch": 2},
    "evaluate": {"answer_tokens": 4},
}


def section(title):
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(kind, start):
    """The fenced blocks of a kind in the paragraph that starts with these words, in order."""
    part = section("Make it yours").split(f"**{start}**")[1].split("\n**")[0]
    return re.findall(rf"```{kind}\n(.*?)```", part, re.DOTALL)


def merged(into, more):
    both = {key: merged(into[key], more[key]) for key in into.keys() & more.keys() if isinstance(into[key], dict)}
    return into | more | both


@pytest.fixture
def apply(tmp_path, monkeypatch, tiny_model):
    """Applies the YAML blocks of a paragraph to a copy of params/, on the tiny model; returns the profile `mine`."""
    shutil.copytree(paths.PARAMS, tmp_path / "params")
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params")
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    models = {"model": {"student": str(tiny_model)}, "generate": {"teacher": str(tiny_model)}}

    def change(start, folder=("/nowhere", "/nowhere")):
        for block in blocks("yaml", start):
            file = tmp_path / re.match(r"# (\S+)", block)[1]
            before = yaml.safe_load(file.read_text()) if file.exists() else merged(SIZES, models)
            file.write_text(yaml.safe_dump(merged(before, yaml.safe_load(block.replace(*map(str, folder))))))
        return params.load("mine")

    return change


def run_one_arm(profile, arm):
    for strategy in profile.strategies:
        teacher.respond(profile.run("generate", strategy=strategy))
    training.train(profile.run("distill", arm=arm))
    return answers.answer(profile.run("evaluate", arm=arm))


def test_a_strategy(apply):
    profile = apply("A strategy")
    assert profile.strategies == ["none", "be-brief"]
    assert arms.title("be-brief") == "KD, Be Brief"
    assert len(run_one_arm(profile, "be-brief")) == 4


def test_a_model(apply, tmp_path, tiny_model):
    for name in ("student", "teacher"):
        shutil.copytree(tiny_model, tmp_path / "models" / name)
    profile = apply("A model", ("/models", tmp_path / "models"))
    assert profile.model.student != str(tiny_model)
    assert len(run_one_arm(profile, "none")) == 4


def test_a_data_set(apply, tmp_path):
    record = json.loads(blocks("json", "A data set")[0])
    folder = tmp_path / "data" / "sums"
    folder.mkdir(parents=True)
    for split, count in (("train", 70), ("test", 40)):
        lines = [
            json.dumps(record | {"question": f"{split} {number}: {record['question']}"}) for number in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    profile = apply("A data set", ("/data", tmp_path / "data"))
    assert problems.load(profile.problems, "test", 40, seed=0)[0].answer == "5"
    assert len(run_one_arm(profile, "fine-tuned")) == 40


def test_a_divergence(apply, monkeypatch):
    monkeypatch.setitem(divergences.DIVERGENCES, "total-variation", None)  # gone again after the test
    (block,) = blocks("python", "A divergence")
    assert block.startswith("# lib/response_priming/params/divergences.py\n")
    exec(block, vars(divergences))
    profile = apply("A divergence")
    same, other = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
    found = divergences.DIVERGENCES[profile.distill.divergence].between
    assert found(same, same, 0.5) == 0
    assert found(same, other, 0.5) == pytest.approx(0.4)
    assert len(run_one_arm(profile, "none")) == 4


def test_a_value(apply):
    profile = apply("A value")
    assert profile.seeds == [0, 1, 2]
    assert profile.distill.kd_temperature == profile.distill_of("teacher").kd_temperature == 2.0
    assert profile.distill_of("teacher").learning_rate == 2.0e-3 != profile.distill_of("none").learning_rate


def test_every_file_that_is_linked_is_there():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert "docs/page.png" in links
    assert [link for link in links if not (paths.ROOT / link).is_file()] == []


def test_the_picture_is_light():
    assert (paths.ROOT / "docs" / "page.png").stat().st_size <= 200_000


def test_every_profile_is_listed():
    assert set(re.findall(r"^\| `([a-z0-9-]+)`", section("Profiles"), re.MULTILINE)) == set(params.profiles())


@pytest.mark.parametrize(("place", "profile"), [(0, "laptop"), (1, "laptop-full")])
def test_the_results_are_of_the_profiles_arms_and_agree_with_their_counts(place, profile):
    tables = [part for part in section("What comes out").split("\n\n") if part.startswith("| student")]
    rows = [row.strip("| ").split(" | ") for row in tables[place].strip().splitlines()[2:]]
    assert [row[0] for row in rows] == [arms.title(arm) for arm in params.load(profile).arms]
    for _, n, correct, accuracy, *_ in rows:
        whole, part = (int(number.replace(",", "")) for number in (n, correct))
        assert f"{100 * part / whole:.1f} %" == accuracy


def test_the_page_has_the_table_of_three_students_an_arm():
    table = (paths.REPORT / "laptop-full.md").read_text(encoding="utf-8")
    assert f"\n\n{table}\n" in section("What comes out")


def test_every_error_that_is_explained_is_one_of_the_codes_own():
    code = "".join(
        file.read_text(encoding="utf-8") for file in [*Path(paths.ROOT / "lib").rglob("*.py"), paths.ROOT / "setup.sh"]
    )
    code = re.sub(r'"\n\s+f?"', "", code)  # strings over several lines
    cells = [row.split("|")[1] for row in section("Troubleshooting").splitlines()[4:] if row.startswith("|")]
    quoted = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) > 10
    fragments = [part for message in quoted for part in re.split(r"\.\.\.|[A-Z]{3,}", message) if len(part) > 12]
    assert [part for part in fragments if part not in code] == []


def test_the_paper_is_cited_as_the_manuscript_cites_it():
    bib = (paths.REPORT / "references.bib").read_text(encoding="utf-8")
    for field in ("title", "author", "journal", "year"):
        wanted = re.search(rf"@article{{goyal2024,.*?{field}\s+= {{(.*?)}},?\n", bib, re.DOTALL)[1]
        assert wanted in section("How to cite")
    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert f"version = {{{citation['version']}}}" in section("How to cite")
    assert citation["title"].replace("LLM", "{LLM}") in section("How to cite")
