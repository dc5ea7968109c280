"""What a reproduction begins with, and the numbers of two pages; a whole one is in tests/whole."""

import json
import shutil

import pytest
import yaml
from nbformat import v4, write

from response_priming import params, paths
from response_priming.errors import InputError
from response_priming.report import reproduction

PROFILE = params.load("laptop")


@pytest.fixture
def params_folder(tmp_path, monkeypatch):
    """A folder of profiles of one's own."""
    folder = shutil.copytree(paths.PARAMS, tmp_path / "params")
    monkeypatch.setattr(paths, "PARAMS", folder)
    return folder


@pytest.mark.parametrize("source", ["", "ro-crate-metadata.json"])
def test_a_record_becomes_a_profile_of_the_same_values(recorded, params_folder, source):
    shutil.move(recorded, recorded.with_name("copied"))
    plan = reproduction.prepare(recorded.with_name("copied") / source)
    assert plan.name == "reproduce-laptop"
    assert plan.file == params_folder / "reproduce-laptop.yaml"
    assert params.load(plan.name) == PROFILE.model_copy(update={"name": plan.name})
    assert reproduction.prepare(recorded.with_name("copied")) == plan  # a second time


@pytest.mark.usefixtures("params_folder")
def test_what_is_other_here_is_said_before_it_runs(recorded):
    plan = reproduction.prepare(recorded)
    said = dict(line.split(": there ") for line in plan.differences)
    assert said["code"].startswith(f"{40 * 'a'}, 2 files differ from the commit, here ")
    assert said["torch"].startswith("2.0, here 2.")
    assert said["machine"].startswith("one core, ")
    assert said["precision"].startswith("bfloat16, here float32") or PROFILE.model.precision == "bfloat16"
    assert said["numpy"].startswith("unknown, here ")
    # Each of two steps was executed in 60 s; making what evaluate found took 120, and the page's folders 120.
    assert (plan.wall_seconds, plan.cpu_seconds) == (60 + 120 + 120, 90 + 180 + 180)


def test_what_is_no_record_of_a_run_is_refused_in_one_line(recorded, params_folder, tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no ro-crate-metadata.json there; expected is the folder of a "):
        reproduction.prepare(tmp_path / "nowhere")
    file = recorded / "ro-crate-metadata.json"
    text = file.read_text()
    for broken in ("", "[]", '{"@context": "x", "@graph": []}', text.replace('"#paper"', '"#other"')):
        file.write_text(broken)
        with pytest.raises(InputError, match=r"ro-crate-metadata.json: is no record of a run of this suite$"):
            reproduction.prepare(file)
    assert not (params_folder / "reproduce-laptop.yaml").exists()


@pytest.mark.parametrize(
    ("entity", "key", "value", "message"),
    [
        ("#value/distill.alpha", "value", "2.0", r"distill.alpha = 2.0: input should be less than or equal to 1"),
        ("#value/distill.alpha", "name", "distill.beta", r"distill.beta = 0.5: unknown key; allowed: "),
        ("./", "alternateName", "../../x", r"name: .*'reproduce-../../x'"),
    ],
)
def test_parameters_that_are_none_here_are_named(recorded, params_folder, entity, key, value, message):
    file = recorded / "ro-crate-metadata.json"
    record = json.loads(file.read_text())
    next(each for each in record["@graph"] if each["@id"] == entity)[key] = value
    file.write_text(json.dumps(record))
    before = sorted(params_folder.parent.rglob("*"))
    with pytest.raises(InputError, match=message):
        reproduction.prepare(recorded)
    assert sorted(params_folder.parent.rglob("*")) == before


def test_another_profile_of_that_name_is_kept(recorded, params_folder):
    other = params_folder / "reproduce-laptop.yaml"
    other.write_text("seed: 7\n")
    with pytest.raises(InputError, match=r"reproduce-laptop.yaml: is of another run; .* remove it$"):
        reproduction.prepare(recorded)
    assert other.read_text() == "seed: 7\n"


TABLE = """<table><tr><th>student</th><th>n</th><th>95 % interval</th><th>95 % interval</th></tr>
<tr><td>KD, no prompt</td><td>6</td><td>{}</td><td></td></tr><tr><td></td><td>7</td><td>1</td><td>2</td></tr></table>"""


@pytest.fixture
def page(tmp_path):
    """Writes a page of one sentence, one table and one figure; returns the run's folder."""

    def put(name, accuracy="12.0 %", cell="0.0 to 39.0", **variables):
        folder = tmp_path / name / "report"
        folder.mkdir(parents=True)
        (folder / "_variables.yml").write_text(yaml.safe_dump({"accuracy": accuracy, "profile": name, **variables}))
        text = (
            "Of {{< var profile >}}: {{< var accuracy >}}.\n{{< embed c.ipynb#tbl-a >}}\n{{< embed c.ipynb#fig-a >}}\n"
        )
        (folder / "index.qmd").write_text(text)
        output = v4.new_output("display_data", data={"text/markdown": TABLE.format(cell)})
        cells = [v4.new_code_cell(f"#| label: {label}", outputs=[output]) for label in ("tbl-a", "fig-a")]
        write(v4.new_notebook(cells=cells), folder / "c.ipynb")
        return folder.parent

    return put


def test_every_number_of_two_pages_is_set_side_by_side(page):
    one, same, other = page("one"), page("same"), page("other", accuracy="12.1 %", cell="0.0 to 38.0")
    found = list(reproduction.numbers(one, same / "ro-crate-metadata.json"))
    assert [(name, there) for name, there, _ in found] == [
        ("accuracy", "12.0 %"),
        ("tbl-a[1,2] KD, no prompt: n", "6"),
        ("tbl-a[1,3] KD, no prompt: 95 % interval", "0.0 to 39.0"),
        ("tbl-a[2,2] : n", "7"),
        ("tbl-a[2,3] : 95 % interval", "1"),
        ("tbl-a[2,4] : 95 % interval", "2"),
    ]
    assert all(there == here for _, there, here in found)
    different = [number for number in reproduction.numbers(one, other) if number.there != number.here]
    assert different == [
        ("accuracy", "12.0 %", "12.1 %"),
        ("tbl-a[1,3] KD, no prompt: 95 % interval", "0.0 to 39.0", "0.0 to 38.0"),
    ]
    missing = [number for number in reproduction.numbers(one, page("less", cell="")) if number.there != number.here]
    assert missing == [("tbl-a[1,3] KD, no prompt: 95 % interval", "0.0 to 39.0", None)]


def test_a_run_without_a_page_is_named(page, tmp_path):
    with pytest.raises(InputError, match=r"gone: no page there; `make paper` makes one$"):
        list(reproduction.numbers(page("one"), tmp_path / "gone"))
