"""The graph, on a copy of the project with a tiny random model: every notebook runs, and only what is stale again."""

import os
import random
import re
import shutil
import subprocess

import nbformat
import pytest
import tiny
import yaml
from project import ARMS, Project
from rocrate.rocrate import ROCrate

from response_priming import paths, provenance

NOTEBOOKS = {
    "generate-none", "generate-teacher",
    "distill-fine-tuned", "distill-none", "distill-teacher",
    "evaluate-undistilled", "evaluate-fine-tuned", "evaluate-none", "evaluate-teacher",
    "attention-visualize", "compare", "audit", "claims",
}  # fmt: skip


READERS = {"attention-visualize", "compare", "claims", "report"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project after a whole `make paper` with two jobs at once."""
    root = tmp_path_factory.mktemp("project")
    project = Project(root, tiny.save_model(root / "model"))
    done = project.make("-j2", "paper")
    assert done.returncode == 0, done.stdout + done.stderr
    project.log = done.stdout
    return project


@pytest.mark.parametrize(
    "name",
    ["my run", "../keep", "laptop {0}/keep", "", "-x", "Laptop", "50%", "a'b", "laptop ", "a$(shell touch {0}/ran)"],
)
@pytest.mark.parametrize("goal", ["plan", "clean"])
def test_a_name_that_is_none_ends_make_in_one_line_and_touches_nothing(tmp_path, goal, name):
    shutil.copy(paths.ROOT / "Makefile", tmp_path / "Makefile")
    for folder in ("build/laptop", "keep"):
        (tmp_path / folder).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    command = ["make", goal, f"PROFILE={name.format(tmp_path)}"]
    done = subprocess.run(command, cwd=tmp_path, env=tiny.ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"PROFILE = '{name.format(tmp_path)}': is no name; allowed: a-z, 0-9 and -" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_make_paper_executes_every_notebook_and_ends_with_the_page(project):
    executed = {file.stem: nbformat.read(file, as_version=4) for file in (project.build / "notebooks").glob("*.ipynb")}
    assert executed.keys() == NOTEBOOKS
    for name, notebook in executed.items():
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code), name
    page = project.build / "report" / "_site" / "index.html"
    assert project.log.splitlines()[-1] == f"The paper: {page}"
    assert page.exists()


def test_executed_notebook_shows_the_values_it_ran_with(project):
    notebook = nbformat.read(project.build / "notebooks" / "distill-teacher.ipynb", as_version=4)
    injected = next(cell.source for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", []))
    assert 'arm = "teacher"' in injected
    assert "train_steps = 2" in injected


def test_log_counts_the_notebooks_and_says_how_long_each_took(project):
    counted = [(place + 1, 13) for place in range(13)]
    for said in (r" -> build/tiny/notebooks/\S+\.ipynb$", r": (?:\d+ min )?\d+ s \(\d+\.\d CPU min\)$"):
        found = re.findall(rf"^\[(\d+)/(\d+)\] [\w-]+{said}", project.log, flags=re.MULTILINE)
        assert sorted((int(place), int(total)) for place, total in found) == counted


def test_log_has_progress_and_nothing_of_what_the_notebooks_show(project):
    places = r"\[\d+/13\] [\w-]+( -> |: )|\[report\] |The paper: "
    assert [line for line in project.log.splitlines() if not re.match(places, line)] == []
    assert re.search(r"\] distill-none: 2/2 steps, .*, 00:00 left, hard=", project.log)
    for file in (project.build / "notebooks").glob("*.ipynb"):
        streams = [
            output.text
            for cell in nbformat.read(file, as_version=4).cells
            for output in cell.get("outputs", [])
            if output.output_type == "stream" and output.name == "stderr"
        ]
        assert "".join(streams).strip() == ""


def test_an_extra_notebook_is_executed_alone_and_the_next_paper_has_its_page(project):
    done = project.make("attribution")
    assert done.returncode == 0, done.stderr
    made = project.build / "notebooks" / "attribution.ipynb"
    first, *_, last = done.stdout.splitlines()
    assert first == "[extra] attribution -> build/tiny/notebooks/attribution.ipynb"
    assert last == f"The attribution: {made}; make paper gives it a page"
    assert project.stale() == {"report"}
    assert project.make("paper").returncode == 0
    assert (project.build / "report" / "_site" / "attribution-preview.html").exists()
    assert project.stale() == set()


def test_two_runs_are_set_side_by_side(project):
    shutil.copytree(project.build, project.root / "before" / "tiny", ignore=shutil.ignore_patterns("students"))
    done = project.make("compare", "A=tiny", "B=before/tiny")
    assert done.returncode == 0, done.stderr
    page = project.root / "build" / "compare-runs" / "tiny-tiny" / "index.html"
    assert done.stdout == f"The comparison: {page}\n"
    assert "students/teacher/seed-0" in page.read_text()  # it is missing, and named
    assert project.stale() == set()


def test_comparison_of_one_run_says_how_to_name_two(project):
    done = project.make("compare", "A=tiny")
    line, *rest = done.stderr.splitlines()
    assert done.returncode == 2
    assert line == "response-priming: A or B is missing: name two runs, as in `make compare A=laptop B=single-gpu`"
    assert all(other.startswith("make") for other in rest)


def test_an_explored_parameter_is_compared_and_told_of_on_the_page(project):
    done = project.make("explore", "SET=distill.train_steps=3", "ARM=teacher")
    assert done.returncode == 0, done.stderr
    assert re.search(r"KD, Teacher: .* %, with distill.train_steps=3 .* %: [-+].* points, 95 % interval", done.stdout)
    assert project.stale() == {"report"}
    assert project.make("paper").returncode == 0
    card = r'class="parameter"[^>]*aria-description="distill.train_steps[^"]*; with 3 \(KD, Teacher\)&#58; [^"]*points'
    assert re.search(card, (project.build / "report" / "_site" / "index.html").read_text())
    assert project.stale() == set()
    assert project.run("verify", "tiny").returncode == 0


def test_second_make_paper_runs_nothing(project):
    assert project.stale() == set()
    assert "[" not in project.make("paper").stdout


def test_one_arms_parameter_makes_only_that_arm_stale(project):
    project.write(overrides={"teacher": {"learning_rate": 2.0e-3}})
    try:
        later = {"attention-visualize", "compare", "claims", "report"}
        assert project.stale() == {"distill-teacher", "evaluate-teacher", *later}
    finally:
        project.write(overrides={})


def test_scoring_parameter_leaves_students_alone(project):
    project.write(evaluate={"answer_tokens": 9, "evaluate_batch": 4})
    try:
        assert project.stale() == {f"evaluate-{arm}" for arm in ARMS} | READERS
    finally:
        project.write(evaluate={"answer_tokens": 8, "evaluate_batch": 4})


def test_touched_file_with_the_same_content_makes_nothing_stale(project):
    for file in (
        project.root / "lib" / "response_priming" / "distill" / "training.py",
        project.root / "params" / "tiny.yaml",
    ):
        file.touch()
    assert project.stale() == set()


def test_a_comment_in_any_file_makes_nothing_stale(project):
    modules = {file: file.read_text() for file in (project.root / "lib" / "response_priming").rglob("*.py")}
    for file, source in modules.items():
        file.write_text(source + "\n# A reason.\n")
    try:
        assert project.stale() == set()
    finally:
        for file, source in modules.items():
            file.write_text(source)


def test_changed_code_executes_the_notebooks_that_use_it_and_makes_no_student_again(project):
    module = project.root / "lib" / "response_priming" / "methods" / "losses.py"
    source = module.read_text()
    module.write_text(source + "\nCHANGED = True\n")
    try:
        stale = project.stale()
        said = project.run("why", "distill-none", "--profile", "tiny").stdout
    finally:
        module.write_text(source)
    assert stale == {name for name in NOTEBOOKS if name.startswith("distill")} | {"report"}
    assert said == "distill-none: code: methods.losses changed\n"


@pytest.mark.parametrize(
    ("damage", "reason", "again"),
    [
        ("scores/none/seed-0/answers.parquet", "not as it was made", {"evaluate-none", *READERS}),
        ("students/none/seed-0/adapter_model.safetensors", "not as it was made", {"evaluate-none", *READERS}),
        ("notebooks/audit.ipynb", "changed by hand", {"report"}),
        ("report/_site/index.html", "changed by hand", set()),
    ],
)
def test_what_was_changed_or_removed_by_hand_is_made_again(project, damage, reason, again):
    file = project.build / damage
    kept = file.read_bytes()
    node = "report" if "report" in damage else file.stem if "notebooks" in damage else None
    node = node or f"{'evaluate' if 'scores' in damage else 'distill'}-none"
    for change in (lambda: file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1])), file.unlink):
        change()
        os.utime(file.parent, (0, 0))
        try:
            assert reason in project.run("why", node, "--profile", "tiny").stdout or not file.exists()
            assert project.stale() == {node, *again}
        finally:
            file.write_bytes(kept)
    assert project.stale() == set()


def flipped(file, at):
    """The file with one bit changed at a share of its length; returns what it was."""
    before = file.read_bytes()
    place = min(len(before) - 1, int(at * len(before)))
    file.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
    return before


def test_a_whole_run_is_verified_and_a_flipped_bit_in_any_artefact_is_named(project):
    done = project.run("verify", "tiny")
    assert (done.returncode, done.stdout) == (0, "build/tiny: every file, recipe and number is as it was made\n")
    files = [
        file
        for file in sorted(project.build.rglob("*"))
        if file.is_file() and not {"plan"} & {*file.relative_to(project.build).parts} and file.stat().st_size
    ]
    for file in random.Random(0).sample(files, 6):
        before = flipped(file, random.Random(str(file)).random())
        try:
            done = project.run("verify", "tiny")
        finally:
            file.write_bytes(before)
        assert done.returncode == 1, file
        assert file.relative_to(project.root).as_posix() in done.stdout or f"{file.stem}: " in done.stdout, done.stdout
        assert done.stderr == ""


def untimed(page):
    """A page without what its results took, which is never the same again."""
    parts = re.split(r"<details>\s*<summary>\s*(?:<p>)?What the run took.*?</details>", page, flags=re.DOTALL)
    return re.sub(r"[\d,]+ CPU seconds in all", "", "".join(parts))


def test_the_page_of_notebooks_that_ran_again_is_the_same_to_the_byte(project):
    site, pages = project.build / "report" / "_site", []
    # The first time they find their results, the second they compute them; before, changed code may have executed them.
    for made_again in ((), ("attention", "comparison")):
        for name in made_again:
            shutil.rmtree(project.build / name)
        for name in ("evaluate-none", "compare", "attention-visualize"):
            (project.build / "notebooks" / f"{name}.ipynb").unlink()
        shutil.rmtree(project.build / "report")
        assert project.make("paper").returncode == 0
        pages.append({file.relative_to(site).as_posix(): untimed(file.read_text()) for file in site.rglob("*.html")})
    assert len(pages[0]) > 3
    assert pages[0] == pages[1]


def test_a_plan_that_was_cut_short_is_written_again(project):
    plan = project.build / "plan" / "plan.mk"
    text = plan.read_text()
    for cut in ("", text[: len(text) // 2], text[:-3], "broken ( $(\n"):
        plan.write_text(cut)
        assert project.stale() == set()
    (project.build / "plan" / "ready").write_text("")
    assert project.make("paper").returncode == 0
    assert "arms:" in (project.build / "plan" / "ready").read_text()


def test_a_notebook_is_not_executed_on_what_is_stale(project):
    project.write(overrides={"none": {"learning_rate": 2.0e-3}})
    try:
        done = project.run("run", "evaluate", "--arm", "none", "--profile", "tiny")
    finally:
        project.write(overrides={})
    assert done.returncode == 2
    said = "evaluate-none needs distill-none, which is stale: students/none/seed-0: learning_rate = 0.002, was 0.001;"
    assert said in done.stderr


def test_failed_notebook_stays_readable_and_is_named(project):
    notebook = project.root / "notebooks" / "compare.ipynb"
    source = notebook.read_text()
    broken = nbformat.reads(source, as_version=4)
    broken.cells.append(nbformat.v4.new_code_cell("1 / 0"))
    notebook.write_text(nbformat.writes(broken))
    try:
        done = project.make("paper")
    finally:
        notebook.write_text(source)
    partial = project.build / "notebooks" / "compare.partial.ipynb"
    assert done.returncode == 2
    assert "build/tiny/notebooks/compare.partial.ipynb: ZeroDivisionError" in done.stderr
    assert any("ZeroDivisionError" in str(cell.get("outputs")) for cell in nbformat.read(partial, as_version=4).cells)
    assert (project.build / "notebooks" / "compare.ipynb").exists()
    assert project.stale() == set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distil": {}}, "params/tiny.yaml: distil = {}: unknown key; allowed: "),
        ({"distill": {"alpah": 1}}, "params/tiny.yaml: distill.alpah = 1: unknown key; allowed: signal, "),
        ({"distill": {"alpha": 2}}, "params/tiny.yaml: distill.alpha = 2: input should be less than or equal to 1"),
        ({"distill": {"alpha": "much"}}, "params/tiny.yaml: distill.alpha = 'much': input should be a valid number"),
        ({"arms": ["undistilled", "theacher"]}, "params/tiny.yaml: arms: unknown arm 'theacher'; known: "),
        ({"problems": {"dataset": "gsm8k", "data_dir": "nowhere"}}, "nowhere/train.jsonl: no such file"),
        ({"model": {"student": "./nowhere"}}, "model './nowhere': no such folder"),
    ],
)
def test_bad_profile_stops_before_any_work(project, change, message):
    file = project.root / "params" / "tiny.yaml"
    before, made = file.read_text(), sorted((project.build / "notebooks").iterdir())
    project.write(**change)
    try:
        done = project.make("paper")
    finally:
        file.write_text(before)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode == 2
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert "[" not in done.stdout
    assert sorted((project.build / "notebooks").iterdir()) == made


def test_unknown_profile_names_those_there_are(project):
    done = project.make("paper", profile="labtop")
    assert done.returncode == 2
    assert "params/labtop.yaml: no such profile; there are: gsm8k-laptop, laptop, " in done.stderr


def test_help_names_every_goal_and_profile(project):
    shown = project.make("help").stdout
    for word in (
        "make paper",
        "make test",
        "make test-harness",
        "make lab",
        "make plan",
        "make compare",
        "make related",
        "make reproduce",
        "make clean",
        "gsm8k-laptop",
        "single-gpu",
    ):
        assert word in shown


def test_the_record_names_every_step_and_every_file_of_the_run(project):
    record = ROCrate(project.build)
    steps = {step["name"] for step in record.mainEntity["step"]}
    assert steps - {"attribution"} == NOTEBOOKS | {"report"}  # that one is another test's
    for name in steps:
        costs = {cost["name"]: cost["value"] for cost in record.get(f"#run/{name}")["resourceUsage"]}
        assert float(costs["cpu_seconds"]) > 0
        assert "joules" in costs
    files = {entity.id: entity["sha256"] for entity in record.data_entities if "sha256" in entity}
    assert files == {name: provenance.content_digest(project.build / name) for name in files}
    files_there = (file for file in project.build.rglob("*") if file.is_file())
    # Another test leaves a notebook that failed.
    there = {file.relative_to(project.build).as_posix() for file in files_there if ".partial" not in file.suffixes}
    others = {name for name in there - files.keys() if not name.startswith(("plan/", "explored/"))}
    assert others == {"ro-crate-metadata.json"}  # what is explored is no part of the run
    model = record.get("#made/responses/none")["object"]
    assert [each["name"] for each in model if each.id.startswith("#model/")] == [str(project.root / "model")]


def test_a_lost_or_edited_record_is_named_and_written_again_and_nothing_else_is(project):
    file = project.build / "ro-crate-metadata.json"
    text = file.read_text()
    for change in (lambda: file.write_text(text.replace("Making of", "Faking of")), file.unlink):
        change()
        assert project.stale() == {"report"}
        assert project.run("verify", "tiny").returncode == 1
        page = (project.build / "report" / "_site" / "index.html").stat().st_ino
        assert project.make("paper").returncode == 0
        assert (project.build / "report" / "_site" / "index.html").stat().st_ino == page
        assert project.stale() == set()
        assert "Faking of" not in file.read_text()


def test_a_run_is_made_again_by_its_record_and_every_number_is_compared(project):
    done = project.make("reproduce", "FROM=build/tiny")
    assert done.returncode == 0, [*re.findall("^different.*", done.stdout, re.M), done.stderr]
    assert re.search(
        r"^\[reproduce\] there it took .* CPU min\); parameters: params/reproduce-tiny.yaml$", done.stderr, re.M
    )
    *numbers, counted = done.stdout[done.stdout.index("equal ") :].splitlines()
    assert counted == f"{len(numbers)} equal, 0 different"
    assert len(numbers) > 500
    for stage in ("responses", "students", "answers"):  # made, not taken
        one, other = ({file.stat().st_ino for file in folder.glob(f"{stage}/*/**/*") if file.is_file()}
                      for folder in (project.build, project.build.with_name("reproduce-tiny")))  # fmt: skip
        assert len(one) == len(other) > 0
        assert not one & other
    changed = shutil.copytree(project.build, project.root / "changed")
    variables = changed / "report" / "_variables.yml"
    texts = yaml.safe_load(variables.read_text())
    texts["n_test"] = texts["n_test"].replace(">6</a>", ">7</a>")
    variables.write_text(yaml.safe_dump(texts, sort_keys=False))
    done = project.run("numbers", "changed", "build/reproduce-tiny")
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if line.startswith("different")] == [
        "different n_test = 7 there, 6 here"
    ]
    assert done.stdout.endswith(f"{len(numbers) - 1} equal, 1 different\n")


def test_what_cannot_be_made_again_is_one_line(project):
    for done in (project.make("reproduce", "FROM=nowhere"), project.run("numbers", "nowhere", "build/tiny")):
        assert done.returncode == 2
        line, *rest = done.stderr.splitlines()
        assert line.startswith("response-priming: nowhere: no ")
        assert all(other.startswith("make") for other in rest)


def test_make_clean_removes_only_the_profiles_results(project):
    other = project.root / "build" / "other"
    shutil.copytree(project.build, other)
    done = project.make("clean", profile="other")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^build/other/students: 3 results, \d+ s to make$", done.stdout, flags=re.MULTILINE)
    assert {path.name for path in other.iterdir()} == {"responses"}
    assert project.make("clean-responses", profile="other").returncode == 2  # nobody said yes
    assert len(list((other / "responses").glob("*/manifest.json"))) == 2
    assert project.make("clean-responses", profile="other", answer="y\n").returncode == 0
    assert not other.exists()
    assert project.stale() == set()
