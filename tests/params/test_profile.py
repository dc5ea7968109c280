import json
import re

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from response_priming import params, paths
from response_priming.errors import InputError
from response_priming.params import sections

SECTIONS = {
    "problems": sections.Problems,
    "model": sections.Model,
    "generate": sections.Generate,
    "distill": sections.Distill,
    "evaluate": sections.Evaluate,
    "attention": sections.Attention,
    "audit": sections.Audit,
    "ladder": sections.Ladder,
    "related": sections.Related,
    "search": sections.Search,
    "attribution": sections.Attribution,
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes params/mine.yaml into a folder that stands for the project's params/."""
    (tmp_path / "prompts.yaml").write_text((paths.PARAMS / "prompts.yaml").read_text())
    (tmp_path / "laptop.yaml").write_text((paths.PARAMS / "laptop.yaml").read_text())
    monkeypatch.setattr(paths, "PARAMS", tmp_path)

    def write(content):
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (tmp_path / "mine.yaml").write_text(text)

    return write


# --- profiles ---


@pytest.mark.parametrize("name", params.profiles())
def test_every_profile_file_validates(name):
    assert params.load(name).name == name


def test_an_unknown_profile_names_those_there_are():
    with pytest.raises(InputError, match=r"^params/labtop.yaml: no such profile; there are: .*laptop, .*single-gpu$"):
        params.load("labtop")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"distil": {}}, "distil = {}: unknown key; allowed: name, seed, seeds, arms, problems, .*distill"),
        ({"distill": {"alpah": 1}}, "distill.alpah = 1: unknown key; allowed: .*alpha, kd_temperature, "),
        ({"problems": {"n_train": "many"}}, "problems.n_train = 'many': input should be a valid integer"),
        ({"problems": {"n_train": 0.5}}, "problems.n_train = 0.5: input should be a valid integer"),
        ({"distill": {"alpha": 2}}, "distill.alpha = 2: input should be less than or equal to 1"),
        ({"distill": {"learning_rate": 0}}, "distill.learning_rate = 0: input should be greater than 0"),
        ({"problems": {"dataset": "gsm9k"}}, "problems.dataset = 'gsm9k': input should be 'procedural', 'gsm8k' or "),
        (
            {"problems": {"dataset": "local"}},
            "problems: data_dir = None: dataset 'local' needs a folder with train.jsonl",
        ),
        ({"generate": {"top_k": "most"}}, "generate.top_k: 'most' is neither a number from 1 nor 'all'"),
        ({"generate": {"top_k": 0}}, "generate.top_k: 0 is neither a number from 1 nor 'all'"),
        ({"generate": {"samples": 4}}, "generate: samples = 4 needs a temperature above 0; greedy samples are all "),
        ({"distill": None}, "distill = None: input should be a valid dictionary"),
        ({"distill": {"micro_batch": 3}}, "distill: micro_batch = 3 does not divide train_batch = 8"),
        (
            {"arms": ["theacher"]},
            "arms: unknown arm 'theacher'; known: undistilled, undistilled-examples, ",
        ),
        ({"arms": ["none", "none"]}, "arms: must be one or more different names"),
        ({"seeds": [1, 1]}, r"seeds: \[1, 1\] must be different numbers"),
        ({"ladder": {"ladder_seeds": [1, 1]}}, r"ladder.ladder_seeds: \[1, 1\] must be different numbers"),
        ({"seeds": [-1]}, "seeds.0 = -1: input should be greater than or equal to 0"),
        ({"arms": []}, "arms: must be one or more different names"),
        ({"overrides": {"nobody": {}}}, "overrides: unknown arm 'nobody'; known: "),
        ({"overrides": {"none": {"alpah": 1}}}, "overrides.none.alpah = 1: unknown key; allowed: .*alpha, "),
        ({"overrides": {"none": {"alpha": "x"}}}, "overrides.none.alpha = 'x': input should be a valid number"),
        ({"distill": {"alignment": "shifted"}}, "distill.alignment = 'shifted': input should be 'response' or 'publ"),
        ({"distill": {"repairs": ["boss"]}}, "distill.repairs.0 = 'boss': input should be 'pairing', 'prefix-offset'"),
        ({"distill": {"repairs": ["bos"]}}, r"distill: repairs = \['bos'\]: only alignment 'published' has something"),
        ({"arms": ["published-nobody"]}, "arms: unknown arm 'published-nobody'; known: .*, published-none"),
        ({"ladder": {"ladder_strategy": "x"}}, "ladder.ladder_strategy: unknown strategy 'x'; known: none, teacher"),
        ({"search": {"search_strategy": "x"}}, "search.search_strategy: unknown strategy 'x'; known: none, teacher"),
        ({"search": {"alpha_range": [0.9, 0.1]}}, r"search: alpha_range = \[0.9, 0.1\]: the first number must be"),
        (
            {"search": {"alpha_range": [0, 2]}},
            "search: alpha_range: alpha = 2.0: input should be less than or equal to 1",
        ),
        (
            {"search": {"divergences": ["kl"]}},
            "search: divergences: divergence: 'kl' is none of forward-kl, reverse-kl",
        ),
        ("distill: [1\n", "not YAML: "),
        ("- distill\n", "must be a mapping of sections, is a list"),
        ("", "must be a mapping of sections, is empty; `{}` is all defaults"),
        ("# distill: {alpha: 1}\n", "must be a mapping of sections, is empty; "),
        ("null\n", "must be a mapping of sections, is empty; "),
        ("[]\n", "must be a mapping of sections, is a list"),
        ("seed: 010\n", "seed = '010': input should be a valid integer"),
        ("problems: {n_test: 0_40}\n", "problems.n_test = '0_40': input should be a valid integer"),
        ("problems: {n_train: 1:30}\n", "problems.n_train = '1:30': input should be a valid integer"),
        ("problems: {n_train: yes}\n", "problems.n_train = 'yes': input should be a valid integer"),
        ("distill: {learning_rate: on}\n", "distill.learning_rate = 'on': input should be a valid number"),
        ("distill: {train_steps: true}\n", "distill.train_steps = True: input should be a valid integer"),
        ("distill: {alpha: false}\n", "distill.alpha = False: input should be a valid number"),
        ("distill: {learning_rate: .inf}\n", "distill.learning_rate = '.inf': input should be a valid number"),
        ("distill: {weight_decay: 1e999}\n", "distill.weight_decay = inf: input should be a finite number"),
        ("generate: {keep_right: 1}\n", "generate.keep_right = 1: input should be a valid boolean"),
        ("evaluate: {answer_tokens: 32.0}\n", "evaluate.answer_tokens = 32.0: input should be a valid integer"),
        ("overrides: {none: {train_steps: '9'}}\n", "overrides.none.train_steps = '9': input should be a valid int"),
        ("overrides: {none: {alpha: true}}\n", "overrides.none.alpha = True: input should be a valid number"),
        ("distill: {alpha: 0.1}\nseed: 1\ndistill: {}\n", "not YAML: key 'distill' occurs twice "),
        ('distill: {alpha: 0.1, "alpha": 0.2}\n', "not YAML: key 'alpha' occurs twice "),
        ("seed: " + 5000 * "9", "not YAML: Exceeds the limit "),
        ({"seeds": [2**32]}, "seeds.0 = 4294967296: input should be less than or equal to 4294967295"),
        ({"seed": 2**33}, "seed = 8589934592: input should be less than or equal to 4294967295"),
        ({7: {}}, "7 = 7: keys should be strings"),
        ({"model": {"prompt_date": "26 Jul"}}, "model.prompt_date: Invalid isoformat string: '26 Jul'"),
        (
            {"generate": {"worked_examples": 0}},
            "arms: 'undistilled-examples' is 'undistilled' where generate.",
        ),
        ({"generate": {"engine": "server"}}, "generate: server_url = None: engine 'server' needs one, as http://loc"),
    ],
)
def test_a_bad_profile_is_refused_in_one_line(write, content, problem):
    write(content)
    with pytest.raises(InputError, match=rf"mine.yaml: {problem}") as refused:
        params.load("mine")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"problems": {"data_dir": "/data"}}, "problems.data_dir = '/data': ignored; dataset 'procedural' is made"),
        ({"problems": {"allow_leaked": True}}, "problems.allow_leaked = True: ignored; dataset 'procedural' is made"),
        ({"audit": {"disputed": "list.txt"}}, "audit.disputed = 'list.txt': ignored; recorded counts name no problem"),
        ({"problems": {"dataset": "gsm8k", "largest_operand": 9}}, "problems.largest_operand = 9: ignored; only "),
        ({"model": {"student_revision": "abc"}}, "model.student_revision = 'abc': ignored; the student is not of "),
        ({"generate": {"teacher": "./t", "teacher_revision": "abc"}}, "generate.teacher_revision = 'abc': ignored; "),
        ({"generate": {"server_url": "http://x"}}, "generate.server_url = 'http://x': ignored; engine 'transformers' "),
        ({"generate": {"tensor_parallel": 2}}, "generate.tensor_parallel = 2: ignored; engine 'transformers' knows "),
        ({"generate": {"engine": "ray", "tensor_parallel": 2}}, "generate.tensor_parallel = 2: ignored; engine 'tran"),
        ({"cluster": {"replicas": 2}}, "cluster.replicas = 2: ignored; neither generate.engine nor evaluate.evaluate_"),
        ({"distill": {"momentum": 0.5}}, "distill.momentum = 0.5: ignored; optimizer 'adamw' has none"),
        ({"distill": {"divergence_share": 0.1}}, "distill.divergence_share = 0.1: ignored; divergence 'forward-kl' "),
        ({"distill": {"adapter": "full", "lora_r": 4}}, "distill.lora_r = 4: ignored; adapter 'full' has none"),
        ({"distill": {"signal": "text", "alpha": 0.1}}, "distill.alpha = 0.1: ignored; signal 'text' has no distr"),
        ({"distill": {"schedule": "one-epoch", "warmup_steps": 9}}, "distill.warmup_steps = 9: ignored; schedule "),
        ({"attention": {"chosen_heads": [[0, 0]], "heatmaps": 3}}, "attention.heatmaps = 3: ignored; chosen_heads "),
        (
            {"attention": {"attention_prompts": 3, "explorer_prompts": 4}},
            "attention.explorer_prompts = 4: ignored; att",
        ),
        ({"arms": ["none"], "overrides": {"teacher": {"alpha": 1}}}, "overrides.teacher: ignored; the trained arms "),
        ({"overrides": {"undistilled": {"alpha": 0.1}}}, "overrides.undistilled: ignored; the trained arms are fine-"),
        ({"overrides": {"fine-tuned": {"alpha": 0.1}}}, "overrides.fine-tuned.alpha = 0.1: ignored; the arm has no "),
        ({"overrides": {"none": {"momentum": 0.1}}}, "overrides.none.momentum = 0.1: ignored; optimizer 'adamw' has"),
    ],
)
def test_what_would_be_ignored_is_named(write, content, problem):
    write(content)
    assert f"mine.yaml: {problem}" in str(refusal())


@pytest.mark.parametrize("stage", [stage for stage, run in params.RUNS.items() if "replicas" in run.model_fields])
def test_where_it_runs_shapes_nothing(write, stage):
    write({"generate": {"engine": "vllm"}, "evaluate": {"evaluate_engine": "vllm"}})
    item = {"arm": "none"} if stage in ("distill", "evaluate") else {}
    here = params.load("mine").run(stage, **item)
    engine = {"engine": "ray", "tensor_parallel": 2}
    cluster = {"replica_engine": "vllm", "replicas": 3}
    write({"generate": engine, "evaluate": {"evaluate_engine": "ray"}, "cluster": cluster})
    there = params.load("mine").run(stage, **item)
    parallel = {"tensor_parallel"} if stage in ("doctor", "related") else set()
    assert {key for key in here.shaping if here.shaping[key] != there.shaping[key]} == parallel
    assert not {*cluster} & here.shaping.keys()
    assert [folder.code for folder in here.folders] == [folder.code for folder in there.folders]


def test_what_one_arm_uses_is_not_ignored(write):
    write({"distill": {"momentum": 0.5}, "overrides": {"none": {"optimizer": "sgd"}}})
    assert params.load("mine").distill_of("none").momentum == 0.5


NOTATION = "ab:-[]{}'\"\n\t &*!|>%@01.#,?~<="
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
KEYS = st.sampled_from([*params.Profile.model_fields, *sections.Distill.model_fields, "none", "a\nb"]) | SCALARS
TREES = st.dictionaries(
    KEYS, st.recursive(SCALARS, lambda some: st.lists(some, max_size=3) | st.dictionaries(KEYS, some, max_size=4))
)


@given(
    st.binary(max_size=40) | st.text(NOTATION, max_size=60).map(str.encode) | TREES.map(yaml.safe_dump).map(str.encode)
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_either_loads_or_is_refused_in_one_line(write, content):
    write({})
    (paths.PARAMS / "mine.yaml").write_bytes(content)
    assert len((refusal() or "loads").splitlines()) == 1


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_either_loads_or_is_named(write, data):
    section = data.draw(st.sampled_from(sorted(SECTIONS)))
    field = data.draw(st.sampled_from(sorted(SECTIONS[section].model_fields)))
    values = st.none() | st.booleans() | st.integers() | st.floats() | st.text("a\n'", max_size=3)
    value = data.draw(values | st.lists(st.integers(), max_size=2) | st.just({"a": 1}))
    write({section: {field: value}})
    problem = refusal()
    assert problem is None or (field in problem and len(problem.splitlines()) == 1)


def refusal():
    try:
        params.load("mine")
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("written", "value"), [("1e-4", 1e-4), ("2.0e-4", 2e-4), (".5", 0.5), ("1", 1.0), ("+1.", 1.0), ("1E+0", 1.0)]
)
def test_a_number_is_what_yaml_1_2_takes_for_one(write, written, value):
    write(f"distill: {{learning_rate: {written}}}")
    assert params.load("mine").distill.learning_rate == value


@given(st.sampled_from([*sections.Distill.model_fields]), st.sampled_from(["yes", "off", "010", "1_0", "1:30", ".nan"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_yaml_1_1_takes_for_numbers_and_booleans_is_text(write, field, text):
    write(f"distill: {{{field}: {text}}}")
    assert field in str(refusal())
    assert repr(text) in str(refusal())


def test_a_byte_order_mark_is_read_and_other_encodings_are_named(write):
    write({})
    file, text = paths.PARAMS / "mine.yaml", "# réglages\nseed: 3\n"
    file.write_bytes(text.encode("utf-8-sig"))
    assert params.load("mine").seed == 3
    for encoding in ("latin-1", "utf-16", "utf-32"):
        file.write_bytes(text.encode(encoding))
        assert "mine.yaml: must be UTF-8, is not: " in str(refusal())


@pytest.mark.parametrize("name", ["my run", "50%", "Laptop", "a_b", "-x", 65 * "a", "é"])
def test_a_profile_has_a_name_that_can_be_a_folders(write, name):
    write({})
    (paths.PARAMS / "mine.yaml").rename(paths.PARAMS / f"{name}.yaml")
    with pytest.raises(InputError, match=f"{name}.yaml: name: {name!r} is no name; allowed: up to 64 of a-z, 0-9 "):
        params.load(name)


@pytest.mark.parametrize("name", ["../laptop", "sub/laptop", "", "laptop.yaml"])
def test_a_path_is_no_profile(name):
    with pytest.raises(InputError, match="no such profile"):
        params.load(name)


def test_the_folder_of_gsm8k_applies_to_that_data_set_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("GSM8K_DIR", str(tmp_path))
    assert params.load("gsm8k-laptop").problems.data_dir == str(tmp_path)
    assert params.load("laptop").problems.data_dir is None


def test_without_the_folder_gsm8k_comes_from_the_hub(monkeypatch):
    monkeypatch.delenv("GSM8K_DIR", raising=False)
    assert params.load("gsm8k-laptop").problems.data_dir is None


def test_trained_arms_and_strategies_follow_from_the_arms(write):
    write({"arms": ["undistilled", "teacher", "fine-tuned"]})
    assert params.load("mine").strategies == ["teacher"]
    assert params.load("mine").trained == ["teacher", "fine-tuned"]


def test_an_arm_as_released_has_the_released_training_on_as_many_examples(write):
    write({"arms": ["none", "published-none"], "distill": {"train_steps": 7, "train_batch": 4, "micro_batch": 2}})
    profile = params.load("mine")
    released = profile.distill_of("published-none")
    assert {key: getattr(released, key) for key in sections.RELEASED_TRAINING} == sections.RELEASED_TRAINING
    assert (released.train_steps, released.train_batch) == (28, 1)
    assert profile.distill_of("none") == profile.distill


def test_the_published_profile_trains_as_an_arm_as_released_does():
    profile = params.load("published")
    own = profile.distill_of("teacher").model_dump()
    assert {key: own[key] for key in sections.RELEASED_TRAINING} == sections.RELEASED_TRAINING
    assert profile.distill_of("none").lora_dropout == 0.2


@pytest.mark.parametrize(
    ("arms", "answered", "scored"),
    [
        (["undistilled", "fine-tuned"], [], []),
        (["none", "shuffled", "constant-prefix"], ["none", "constant-prefix"], []),
        (["shuffled"], ["none"], []),
        (["published-none", "published-teacher", "teacher"], ["teacher"], ["none", "teacher"]),
    ],
)
def test_what_the_teacher_has_to_give_follows_from_the_arms(write, arms, answered, scored):
    write({"arms": arms})
    profile = params.load("mine")
    assert (profile.strategies, profile.scored) == (answered, scored)
    assert profile.run("compare").strategies == profile.run("attribution").strategies == answered


def test_repairing_the_teachers_part_needs_its_responses(write):
    write({"arms": ["published-none"], "overrides": {"published-none": {"repairs": ["teacher-answers"]}}})
    assert (params.load("mine").strategies, params.load("mine").scored) == (["none"], [])


# --- runs ---


@pytest.mark.parametrize("stage", params.RUNS)
def test_a_run_has_its_sections_values_flat(write, stage):
    write({"seed": 3, "problems": {"n_train": 5}, "generate": {"top_k": 7}, "evaluate": {"rule": "hash"}})
    values = params.load("mine").run(stage).model_dump()
    expected = {"profile": "mine", "seed": 3, "n_train": 5, "n_test": 200, "top_k": 7, "rule": "hash"}
    assert {key: values[key] for key in expected if key in values} == {
        key: value for key, value in expected.items() if key in params.RUNS[stage].model_fields
    }


def test_an_override_reaches_its_arm_alone(write):
    write({"overrides": {"teacher": {"alpha": 0.125, "train_steps": 3}}})
    profile = params.load("mine")
    found = {arm: profile.run("distill", arm=arm).model_dump() for arm in ("teacher", "none")}
    usual = params.load("laptop").run("distill", arm="none").model_dump() | {"profile": "mine"}
    assert found["none"] == usual
    assert found["teacher"] == usual | {"arm": "teacher", "alpha": 0.125, "train_steps": 3}


def namespace(stage, **changes):
    return params.load("laptop").run(stage).model_dump() | {"json": json, "_": 1} | changes


def test_collect_takes_its_fields_and_nothing_else(capsys):
    assert params.collect("distill", namespace("distill")) == params.load("laptop").run("distill")
    assert capsys.readouterr().out == ""


def test_collect_says_that_changed_values_go_aside(capsys):
    run = params.collect("distill", namespace("distill", alpha=0.25))
    assert run.alpha == 0.25
    assert capsys.readouterr().out == (
        f"Exploring: parameters differ from profile laptop; results go to {paths.shown(run.output)}\n"
    )


def test_collect_refuses_a_bad_value_in_one_line():
    with pytest.raises(InputError, match=r"^distill.ipynb: alpha = 2: input should be less than or equal to 1$"):
        params.collect("distill", namespace("distill", alpha=2))


@pytest.mark.parametrize(
    ("stage", "change"),
    [("generate", {"strategy": "../../x"}), ("distill", {"arm": "a/b"}), ("evaluate", {"profile": "../x"})],
)
def test_collect_refuses_a_name_that_leads_elsewhere(stage, change):
    ((key, value),) = change.items()
    with pytest.raises(InputError, match=rf"^{stage}.ipynb: {key}: .*{value!r}"):
        params.collect(stage, namespace(stage, **change))


def test_the_profiles_own_run_writes_where_it_is_read():
    run = params.load("laptop").run("generate", strategy="teacher")
    assert run.output == run.build == paths.BUILD / "laptop"


def test_explored_runs_write_aside_each_in_its_own_folder():
    runs = [params.collect("distill", namespace("distill", alpha=alpha)) for alpha in (0.1, 0.2, 0.1)]
    assert all(run.output.parent == run.build / "explored" for run in runs)
    assert runs[0].output == runs[2].output != runs[1].output


# --- the schema ---


def test_field_names_are_unique_across_sections():
    names = [name for section in SECTIONS.values() for name in section.model_fields]
    assert len(names) == len(set(names))
    assert not set(names) & {"profile", "seed", "arms", "strategy", "arm"}


@pytest.mark.parametrize("stage", params.RUNS)
def test_every_field_has_a_description(stage):
    assert [name for name, field in params.RUNS[stage].model_fields.items() if not field.description] == []


def test_every_field_is_read_somewhere():
    modules = [file.read_text() for file in (paths.ROOT / "lib").rglob("*.py")]
    sources = "\n".join(modules + [file.read_text() for file in paths.NOTEBOOKS.glob("*.ipynb")])
    fields = {name for run in params.RUNS.values() for name in run.model_fields}
    assert {
        name for name in fields if not re.search(rf"\b(run|source|model|self|objective)\.{name}\b", sources)
    } == set()


@pytest.mark.parametrize("stage", params.RUNS)
def test_a_notebooks_parameters_are_the_schemas(stage):
    cells = json.loads((paths.NOTEBOOKS / f"{stage}.ipynb").read_text())["cells"]
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert tagged == [params.parameters_cell(stage)]


@pytest.mark.parametrize("stage", params.RUNS)
def test_the_parameters_cell_executes_to_the_defaults(stage):
    values = {}
    exec(params.parameters_cell(stage), values)
    assert params.collect(stage, values) == params.load("laptop").run(stage)


def test_attention_is_that_of_each_student_once():
    arms = ["undistilled-examples", "none", "undistilled"]
    run = params.load("laptop").model_copy(update={"arms": arms}).run("attention-visualize")
    assert run.arms == ["undistilled", "none"]
