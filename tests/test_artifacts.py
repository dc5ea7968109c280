import hashlib
import itertools
import os
import queue
import re
import signal
import subprocess
import sys
import time
import types

import pytest
import tiny

from response_priming import arms, artifacts, params, paths, provenance
from response_priming.artifacts import making, stopwatch
from response_priming.errors import InputError

FACE = 'attach(__name__, submod_attrs={{"{}": ["thing"]}})\n'


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder whose modules stand for ours: room.stage imports left, from which right is imported, and a face."""
    folder = tmp_path / "package"
    for room in ("room", "face", "params"):
        (folder / room).mkdir(parents=True)
    (folder / "room" / "__init__.py").write_text("import lazy_loader\n" + FACE.format("stage"))
    imports = "import json\nfrom response_priming import face, left, params\n"
    (folder / "room" / "stage.py").write_text(f"{imports}mine = face.thing\n")
    (folder / "room" / "apart.py").write_text("thing = 2\n")
    (folder / "face" / "__init__.py").write_text(FACE.format("inner").replace("}", ', "aside": ["other"]}'))
    (folder / "face" / "inner.py").write_text("thing = 4\n")
    (folder / "face" / "aside.py").write_text("other = 4\n")
    (folder / "left.py").write_text("from response_priming.right import thing\n")
    (folder / "right.py").write_text("thing = 1\n")
    (folder / "params" / "__init__.py").write_text("thing = 3\n")
    monkeypatch.setattr(provenance, "__file__", str(folder / "provenance.py"))
    monkeypatch.setattr(provenance, "code_digests", provenance.code_digests.__wrapped__)
    return folder


def make(folder, recipe=None, content="text"):
    with artifacts.writing(folder, recipe or {}) as aside:
        (aside / "file.txt").write_text(content)


def hidden(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_complete_folder_has_its_files_and_what_made_it(tmp_path):
    make(tmp_path / "new", {"stage": "generate"}, "seven")
    found = artifacts.read(tmp_path / "new")
    assert found["recipe"] == {"stage": "generate"}
    assert found["outputs"] == {"file.txt": hashlib.sha256(b"seven").hexdigest()}
    assert set(found["packages"]) == set(provenance.PACKAGES)
    assert (tmp_path / "new" / "file.txt").read_text() == "seven"


def test_files_below_a_folder_are_outputs_too(tmp_path):
    with artifacts.writing(tmp_path / "new", {}) as aside:
        (aside / "deep").mkdir()
        (aside / "deep" / "file").touch()
    assert list(artifacts.read(tmp_path / "new")["outputs"]) == ["deep/file"]


def test_nothing_is_there_before_the_block_ends(tmp_path):
    with artifacts.writing(tmp_path / "new", {}) as aside:
        assert aside.is_dir()
        assert not (tmp_path / "new").exists()


def test_a_new_folder_replaces_the_old_one_whole(tmp_path):
    make(tmp_path / "new")
    (tmp_path / "new" / "stray").touch()
    make(tmp_path / "new", content="newer")
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"file.txt", artifacts.FILE}


def fail(folder):
    with artifacts.writing(folder, {}) as aside:
        (aside / "half").touch()
        raise RuntimeError


def test_a_block_that_raises_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        fail(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_raises_keeps_the_old_folder(tmp_path):
    make(tmp_path / "new", content="old")
    with pytest.raises(RuntimeError):
        fail(tmp_path / "new")
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"file.txt", artifacts.FILE}
    assert hidden(tmp_path) == []


def test_a_killed_process_leaves_no_folder_and_keeps_the_old_one(tmp_path):
    make(tmp_path / "old", {"seed": 0})
    script = (
        "import os, sys, pathlib; from response_priming import artifacts\n"
        "for name in ('old', 'new'):\n"
        "    if os.fork() == 0:\n"
        "        with artifacts.writing(pathlib.Path(sys.argv[1], name), {}) as aside:\n"
        "            (aside / 'half').touch()\n"
        f"            os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
        "    assert os.wait()[1] == 9\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, env=os.environ)
    assert not (tmp_path / "new").exists()
    assert artifacts.is_current(tmp_path / "old", {"seed": 0})
    assert (tmp_path / "old" / "file.txt").exists()


# --- folders that continue ---


def put(partial, name, content="text"):
    partial.put(name, lambda path: path.write_text(content))


def stop_after(folder, *names):
    """A run that ends before its last file, and leaves files that nobody listed."""
    with pytest.raises(RuntimeError), artifacts.resuming(folder, {"seed": 1}) as partial:  # noqa: PT012
        for name in names:
            put(partial, name)
        (partial.folder / "unlisted").touch()
        (partial.folder / "cache").mkdir()
        raise RuntimeError


def test_a_stopped_run_keeps_the_files_listed_and_no_other(tmp_path):
    stop_after(tmp_path / "new", "a", "b")
    assert not (tmp_path / "new").exists()
    with artifacts.resuming(tmp_path / "new", {"seed": 1}) as partial:
        assert set(partial.outputs) == {"a", "b"}
        put(partial, "c")
        partial.notes["counts"] = 3
    found = artifacts.read(tmp_path / "new")
    assert list(found["outputs"]) == ["a", "b", "c"]
    assert (found["recipe"], found["notes"]) == ({"seed": 1}, {"counts": 3})
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"a", "b", "c", artifacts.FILE}
    assert artifacts.shelved(tmp_path / "new") == []


def begun(folder):
    (partial,) = artifacts.shelved(folder)
    return partial


def test_a_damaged_or_missing_file_is_not_kept(tmp_path):
    stop_after(tmp_path / "new", "a", "b", "c")
    (begun(tmp_path / "new") / "a").write_text("tezt")
    (begun(tmp_path / "new") / "b").unlink()
    with artifacts.resuming(tmp_path / "new", {"seed": 1}) as partial:
        assert set(partial.outputs) == {"c"}


def test_a_run_with_another_recipe_leaves_what_was_begun(tmp_path):
    stop_after(tmp_path / "new", "a")
    with artifacts.resuming(tmp_path / "new", {"seed": 2}) as partial:
        assert set(partial.outputs) == set()
    assert artifacts.intact(begun(tmp_path / "new")) == {"a"}


def test_a_complete_folder_is_taken_up_again(tmp_path):
    make(tmp_path / "new")
    with artifacts.resuming(tmp_path / "new", {}) as partial:
        assert not (tmp_path / "new").exists()
        assert set(partial.outputs) == {"file.txt"}


def test_what_the_stage_does_not_keep_is_removed(tmp_path):
    make(tmp_path / "new")
    with artifacts.resuming(tmp_path / "new", {}) as partial:
        partial.keep([])
    assert {file.name for file in (tmp_path / "new").iterdir()} == {artifacts.FILE}


def test_time_adds_up_over_runs(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    stop_after(tmp_path / "new", "a")
    before = artifacts.read(begun(tmp_path / "new"))["wall_seconds"]
    with artifacts.resuming(tmp_path / "new", {"seed": 1}):
        pass
    assert artifacts.read(tmp_path / "new")["wall_seconds"] > before > 0


def test_damage_is_found_by_digest(tmp_path):
    make(tmp_path / "new")
    assert artifacts.damaged(tmp_path / "new") == set()
    (tmp_path / "new" / "file.txt").write_text("tezt")
    assert artifacts.damaged(tmp_path / "new") == {"file.txt"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b'{"outputs": []}'])
def test_a_damaged_manifest_is_named_and_its_folder_made_again(tmp_path, content):
    make(tmp_path / "new", {"seed": 0}, "old")
    (tmp_path / "new" / artifacts.FILE).write_bytes(content)
    with pytest.raises(InputError, match=r"manifest.json: damaged; `make paper` makes the folder again$"):
        artifacts.read(tmp_path / "new")
    artifacts.made(tmp_path / "new", {"seed": 0}, lambda aside: (aside / "file.txt").write_text("new"))
    assert (tmp_path / "new" / "file.txt").read_text() == "new"
    # Nobody knows what it was, so it is kept.
    assert [(kept / "file.txt").read_text() for kept in artifacts.shelved(tmp_path / "new")] == ["old"]


# --- nothing lost, nothing made twice ---


def counting(text):
    """Writes a file, and counts how often."""

    def write(aside):
        write.times += 1
        (aside / "file.txt").write_text(text)

    write.times = 0
    return write


MODELS = [{"stage": "distill", "version": [1], "parameters": {"alpha": alpha}, "code": {}} for alpha in (0.5, 0.9)]


def test_what_a_model_made_comes_back_when_its_recipe_does(tmp_path):
    first, second = counting("first"), counting("second")
    for _ in range(3):
        for recipe, write in zip(MODELS, (first, second), strict=True):
            artifacts.made(tmp_path / "student", recipe, write)
            assert artifacts.read(tmp_path / "student")["recipe"] == recipe
    assert (first.times, second.times) == (1, 1)


def test_another_code_makes_again_what_no_model_made_and_nothing_else(tmp_path):
    for decided, times in (({"version": [1]}, 1), ({}, 2)):
        write = counting("text")
        for digest in ("old", "new"):
            recipe = {"stage": "any", "parameters": {}, "code": {"some.module": digest}} | decided
            artifacts.made(tmp_path / str(times), recipe, write)
        assert write.times == times
        assert artifacts.shelved(tmp_path / str(times)) == []


def test_what_was_finished_when_the_process_died_takes_its_place(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(making, "_take_place", lambda *_: sys.exit(9))
        patch.setattr(making.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            artifacts.made(tmp_path / "student", MODELS[0], counting("whole"))
    assert not (tmp_path / "student").exists()
    artifacts.made(tmp_path / "student", MODELS[0], lambda _: pytest.fail("made again"))
    assert (tmp_path / "student" / "file.txt").read_text() == "whole"


@pytest.mark.parametrize(
    ("folder", "recipe", "holds"),
    [
        ("students/none/seed-0", {"arm": "teacher"}, "teacher"),
        ("students/none/seed-0", {"arm": "none", "train_seed": 1}, "seed-1"),
        ("responses/none", {"strategy": "teacher"}, "teacher"),
    ],
)
def test_what_was_made_for_another_is_refused(tmp_path, folder, recipe, holds):
    make(tmp_path / folder, {"parameters": recipe})
    with pytest.raises(InputError, match=rf"{folder}: holds what was made for {holds}; `make paper` makes it again$"):
        artifacts.read(tmp_path / folder)


def test_who_comes_second_waits_and_finds_it_made(tmp_path):
    script = (
        "import sys, time, pathlib; from response_priming import artifacts\n"
        "def write(aside):\n"
        "    (aside / 'by').write_text(sys.argv[2]); time.sleep(3)\n"
        "artifacts.made(pathlib.Path(sys.argv[1], 'new'), {'seed': 0}, write)\n"
    )
    command = [sys.executable, "-c", script, tmp_path]
    both = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in "ab"]
    said = "".join(process.communicate(timeout=tiny.PATIENCE)[1] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert re.fullmatch(r"\S+/new: process \d+ is writing it; waiting\n", said)
    assert artifacts.read(tmp_path / "new")["outputs"].keys() == {"by"}


def test_a_folder_that_is_not_made_yet_is_named(tmp_path):
    assert not artifacts.is_current(tmp_path / "none", {})
    with pytest.raises(InputError, match=r"none: not made yet; `make paper` makes every stage in order$"):
        artifacts.read(tmp_path / "none")


@pytest.mark.usefixtures("package")
def test_the_same_recipe_is_current_and_another_parameter_is_not(tmp_path):
    wanted = artifacts.decided_by("stage", {"seed": 0, "arms": ("a", "b")}, [], code=[])
    make(tmp_path / "made", wanted)
    assert artifacts.is_current(tmp_path / "made", wanted)
    assert not artifacts.is_current(
        tmp_path / "made", artifacts.decided_by("stage", {"seed": 1, "arms": ("a", "b")}, [], code=[])
    )


@pytest.mark.usefixtures("package")
def test_an_inputs_content_counts_and_its_time_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    source, made = tmp_path / "laptop" / "responses", tmp_path / "made"
    make(source, content="one")
    make(made, artifacts.decided_by("stage", {}, [source], code=[]))
    make(source, content="one")
    assert artifacts.is_current(made, artifacts.decided_by("stage", {}, [source], code=[]))
    make(source, content="two")
    assert not artifacts.is_current(made, artifacts.decided_by("stage", {}, [source], code=[]))


def test_inputs_are_named_below_their_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    inputs = [tmp_path / "laptop" / stage / "none" / "seed-0" for stage in ("students", "scores")]
    for folder in inputs:
        make(folder)
    found = artifacts.decided_by("stage", {}, inputs, code=[])["inputs"]
    assert list(found) == ["students/none/seed-0", "scores/none/seed-0"]


def test_an_input_that_is_not_made_yet_stops_the_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    with pytest.raises(InputError, match="responses: not made yet"):
        artifacts.decided_by("stage", {}, [tmp_path / "laptop" / "responses"], code=[])


def test_code_is_the_module_and_all_that_it_imports(package):
    digests = provenance.code_digests("room.stage")
    assert set(digests) == {"room.stage", "left", "right", "face.inner"}
    assert digests["right"] == provenance.code_digest((package / "right.py").read_text())


@pytest.mark.parametrize(
    ("module", "text", "current"),
    [
        ("room/stage", "thing = 9\n", False),
        ("right", "thing = 9\n", False),
        ("right", '"""Now said better."""\n\n# A reason.\nthing = (\n    1\n)\n', True),
        ("face/inner", "thing = 9\n", False),
        ("face/aside", "other = 9\n", True),
        ("room/apart", "thing = 9\n", True),
        ("params/__init__", "thing = 9\n", True),
    ],
)
def test_only_code_that_a_stage_uses_makes_it_stale(package, tmp_path, module, text, current):
    make(tmp_path / "made", artifacts.decided_by("stage", {}, [], code=["room.stage"]))
    (package / f"{module}.py").write_text(text)
    assert (
        artifacts.is_current(tmp_path / "made", artifacts.decided_by("stage", {}, [], code=["room.stage"])) == current
    )


@pytest.mark.usefixtures("package")
def test_of_a_face_what_is_taken_counts():
    assert provenance.imported_by("from response_priming import room\nroom.thing()\n") == ["room.stage"]
    assert provenance.imported_by("from response_priming import face\nface.thing, face.none\n") == ["face.inner"]
    assert provenance.imported_by("from response_priming.face import other\n") == ["face.aside"]


def test_our_stages_follow_their_imports():
    distilled = provenance.code_digests("distill.training").keys()
    assert {"distill.training", "methods.losses", "generate.store", "engines.base"} <= distilled
    assert {"distill.training", "evaluate.answers"} & provenance.code_digests("generate.teacher").keys() == set()


@pytest.mark.parametrize("engine", ["transformers", "vllm", "server"])
def test_of_the_engines_the_one_in_use_counts(engine):
    found = provenance.code_digests("generate.teacher", f"engines.{engine}").keys()
    assert {name for name in found if name.startswith("engines.")} - {"engines.base", "engines.cascade"} == {
        f"engines.{engine}"
    }


def test_the_summary_is_one_line_and_says_in_which_precision_a_run_computes(make_run):
    summary = provenance.summary(make_run("distill", arm="teacher"))
    assert len(summary.splitlines()) == 1
    assert summary.startswith("laptop, teacher, seed 0; commit ")
    assert summary.endswith(" cores, float32")
    assert provenance.summary(make_run("audit")).endswith(" cores")


# --- the precision that the machine decides ---


@pytest.fixture
def on(monkeypatch):
    """Makes this machine one where `dtype: auto` is this precision."""
    return lambda auto: monkeypatch.setattr(params, "precision_of", lambda dtype, _: auto if dtype == "auto" else dtype)


def asked(dtype, *inputs):
    return artifacts.decided_by("distill", {"dtype": dtype, "device": "auto"}, list(inputs), code=[])


def test_a_recipe_names_the_precision_that_ran(on):
    on("float32")
    assert asked("auto")["parameters"]["dtype"] == "float32"
    on("bfloat16")
    assert asked("auto")["parameters"]["dtype"] == "bfloat16"


def test_who_chose_the_precision_makes_nothing_stale(tmp_path, on):
    on("float32")
    make(tmp_path / "laptop" / "student", asked("auto"))
    assert artifacts.is_current(tmp_path / "laptop" / "student", asked("float32"))
    make(tmp_path / "laptop" / "student", asked("float32"))
    assert artifacts.is_current(tmp_path / "laptop" / "student", asked("auto"))


def test_a_folder_from_another_kind_of_machine_is_not_made_again_silently(tmp_path, on):
    folder = tmp_path / "laptop" / "student"
    on("bfloat16")
    make(folder, asked("auto"))
    on("float32")
    with pytest.raises(InputError) as refused:
        artifacts.is_current(folder, asked("auto"))
    assert str(refused.value) == (
        f"{folder}: made in bfloat16, and model.dtype = auto is float32 on this machine; in the profile, "
        "`model: {dtype: bfloat16}` goes on with what is there, `model: {dtype: float32}` makes everything again"
    )
    assert artifacts.is_current(folder, asked("bfloat16"))
    assert not artifacts.is_current(folder, asked("float32"))


def test_nothing_is_made_from_what_another_kind_of_machine_made(tmp_path, on, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    responses = tmp_path / "laptop" / "responses"
    on("bfloat16")
    make(responses, asked("auto"))
    on("float32")
    with pytest.raises(InputError, match=r"responses: made in bfloat16, and model\.dtype = auto is float32"):
        asked("auto", responses)
    assert asked("float32", responses)["inputs"] == {"responses": artifacts.read(responses)["outputs"]}


@pytest.mark.parametrize("stage", ["generate", "prompt-signals"])
def test_another_teacher_or_prefix_is_another_recipe(stage, tmp_path, make_run, monkeypatch):
    run = make_run(stage, strategy="teacher")

    def recipe(run):
        return artifacts.recipe(run, run.folders[0])

    before = recipe(run)
    assert recipe(make_run(stage, strategy="teacher", teacher=str(tmp_path))) != before
    assert recipe(make_run(stage, strategy="teacher", student=str(tmp_path), n_test=3)) == before
    changed = arms.strategies() | {"teacher": arms.strategies()["teacher"] | {"prefix": "Think. "}}
    monkeypatch.setattr(arms, "strategies", lambda: changed)
    assert recipe(run) != before


# --- what work takes ---


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    """Two packages of a machine, a part of the first, and the whole platform; sets what the packages count."""
    zones = {"0": "package-0", "0:0": "core", "1": "package-1", "2": "psys"}
    for place, name in zones.items():
        folder = tmp_path / f"intel-rapl:{place}"
        folder.mkdir()
        for file, text in {"name": name, "energy_uj": "0", "max_energy_range_uj": "9999999"}.items():
            (folder / file).write_text(f"{text}\n")
    monkeypatch.setattr(stopwatch, "RAPL", tmp_path)
    monkeypatch.setattr(stopwatch, "energy", stopwatch.energy.__wrapped__)

    def count(**joules):
        for place, value in zip(("0", "1"), joules.values(), strict=True):
            (tmp_path / f"intel-rapl:{place}" / "energy_uj").write_text(str(int(value * 1e6)))

    return count


def test_joules_are_those_of_the_packages_across_turns_of_their_counters(rapl):
    rapl(first=7, second=1)
    watch = artifacts.Stopwatch()
    rapl(first=9, second=2)
    assert watch.seconds()["joules"] == 3
    rapl(first=1, second=2)  # of ten
    assert watch.seconds()["joules"] == 5


def test_a_thread_reads_on_so_that_no_turn_is_missed(rapl, monkeypatch):
    asleep, awake = queue.Queue(), queue.Queue()
    monkeypatch.setattr(stopwatch.time, "sleep", lambda _: (asleep.put(None), awake.get()))
    rapl(first=0, second=0)
    watch = artifacts.Stopwatch()
    asleep.get()
    for value in (8, 6, 4):
        rapl(first=value, second=0)
        awake.put(None)
        asleep.get()
    assert watch.seconds()["joules"] == 24


def test_a_counter_that_is_gone_at_the_end_loses_nothing(rapl, tmp_path):
    rapl(first=0, second=0)
    watch = artifacts.Stopwatch()
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert watch.seconds().keys() == {"wall_seconds", "cpu_seconds", "peak_mib"}


def test_joules_add_up_over_runs_and_are_not_said_where_an_earlier_one_did_not_count(rapl):
    rapl(first=1, second=1)
    watch = artifacts.Stopwatch({"wall_seconds": 3.0, "joules": 20.0})
    rapl(first=2, second=1)
    assert watch.seconds()["joules"] == 21
    assert "joules" not in artifacts.Stopwatch({"wall_seconds": 3.0}).seconds()


@pytest.mark.usefixtures("rapl")
def test_without_a_counter_that_can_be_read_there_are_no_joules(tmp_path, monkeypatch):
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()  # as one that root alone may read
    assert artifacts.Stopwatch().seconds().keys() == {"wall_seconds", "cpu_seconds", "peak_mib"}
    monkeypatch.setattr(stopwatch, "RAPL", tmp_path / "nowhere")
    assert "joules" not in artifacts.Stopwatch().seconds()


def test_seconds_of_processors_are_those_of_ended_children_too():
    watch = artifacts.Stopwatch()
    subprocess.run([sys.executable, "-c", "sum(range(20_000_000))"], check=True)
    assert watch.seconds()["cpu_seconds"] >= 0.1


def test_the_peak_is_that_of_the_process_or_of_an_earlier_one():
    own = artifacts.Stopwatch().seconds()["peak_mib"]
    assert 10 < own < 2**20
    assert artifacts.Stopwatch({"peak_mib": 2.0**20}).seconds()["peak_mib"] == 2**20


def test_seconds_of_gpus_are_those_of_the_gpus_that_hold_something(monkeypatch):
    assert "gpu_seconds" not in artifacts.Stopwatch().seconds()
    held = [2**30, 0, 2**31]
    cuda = types.SimpleNamespace(
        device_count=lambda: 3, is_initialized=lambda: True, max_memory_allocated=lambda place: held[place]
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    clock = itertools.count(100.0, 5.0)
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: next(clock))
    took = artifacts.Stopwatch({"wall_seconds": 60.0, "gpu_seconds": 7.0}).seconds()
    assert took["gpu_seconds"] == 7 + 2 * 10
    assert took["gpu_peak_mib"] == 2**11


def test_a_manifest_names_the_hardware(tmp_path):
    make(tmp_path / "new")
    made = artifacts.read(tmp_path / "new")
    assert any(part.endswith(" GiB of memory") for part in made["hardware"])
    assert all(part == part.strip() and part for part in made["hardware"])


@pytest.mark.parametrize(
    ("commit", "changed", "said"),
    [("a", 0, "as committed"), ("a", 3, "3 files differ from the commit"), (None, 0, "of no git repository")],
)
def test_the_state_of_the_code_in_words(commit, changed, said):
    assert provenance.state_of({"git_commit": commit, "git_changed": changed}) == said
