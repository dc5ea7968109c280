import made_logs
import pytest

from response_priming import provenance
from response_priming.audit import released
from response_priming.errors import InputError

LOG = "teacher-KD.csv"


@pytest.fixture
def read(tmp_path):
    """Reads the made-up logs, with changed files."""
    return lambda changed=None: released.read(made_logs.write(tmp_path / "logs", changed))


def test_every_arm_has_every_problem_with_its_right_answer(read):
    logs = read()
    assert list(logs) == list(released.LOGS)
    for log in logs.values():
        assert list(log["question"]) == made_logs.QUESTIONS
        assert list(log["answer"]) == made_logs.RIGHT
        assert list(log["capped"]) == [False, False, True, True]


def test_the_raw_log_loses_its_questions_however_they_were_decoded(read):
    logs = read()
    assert list(logs["confidence"]["response"]) == made_logs.RESPONSES == list(logs["teacher"]["response"])
    assert "graded" not in logs["confidence"]
    assert list(logs["teacher"]["graded"]) == [True, True, True, False]


def test_a_graded_log_keeps_a_question_that_the_model_repeated(read):
    table = made_logs.tables()[LOG].assign(model_answer=made_logs.QUESTIONS)
    assert list(read({LOG: table})["teacher"]["response"]) == made_logs.QUESTIONS


def test_rows_in_another_order_come_in_the_order_of_the_problems(read):
    table = made_logs.tables()[LOG].iloc[::-1]
    assert list(read({LOG: table})["teacher"]["response"]) == made_logs.RESPONSES


def test_a_text_that_reads_like_a_missing_value_stays_a_text(read):
    table = made_logs.tables()[LOG].assign(model_answer=["NA", "nan", "null", "None"])
    assert list(read({LOG: table})["teacher"]["response"]) == ["NA", "nan", "null", "None"]


def test_a_missing_folder_is_named_with_what_belongs_there(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder; expected there: .*base-KD\.csv.*commit b869e93"):
        released.read(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [released.REFERENCE, *released.LOGS.values()])
def test_a_missing_log_is_named_with_those_expected(read, name):
    with pytest.raises(InputError, match=rf"{name}: no such file; expected there: .*teacher-KD\.csv"):
        read({name: None})


def without(column):
    return lambda table: table.drop(columns=column)


def replaced(column, values):
    return lambda table: table.assign(**{column: values})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.iloc[:3], r"3 rows; must be 4, one for each row of extracted_true_answers\.csv"),
        (without("question"), "no column 'question'; columns: "),
        (without("model_answer"), "no column 'model_answer'; columns: "),
        (without("model_max_tokens"), "no column 'model_max_tokens'; columns: "),
        (lambda table: table.iloc[[0, 1, 2, 1]], "row 4: question repeats that of row 2; each must occur once"),
        (
            replaced("question", [*made_logs.QUESTIONS[:3], "Who?"]),
            r"row 4: question = 'Who\?'\.\.\.: not in",
        ),
        (replaced("model_output_tokens", [1, 2, "many", 4]), "row 3: model_output_tokens = 'many': must be a whole"),
        (replaced("model_output_tokens", [1, 2, "9" * 400, 4]), "row 3: model_output_tokens = '999.*: must be a whole"),
        (replaced("model_max_tokens", [True, "maybe", True, True]), "row 2: model_max_tokens = 'maybe': must be True"),
        (replaced("correct", [True, True, "", True]), "row 3: correct = '': must be True or False"),
    ],
)
def test_a_bad_log_is_named_with_row_and_field(read, change, message):
    with pytest.raises(InputError, match=rf"{LOG}: {message}") as refused:
        read({LOG: change(made_logs.tables()[LOG])})
    assert len(str(refused.value).splitlines()) == 1


def test_a_reference_without_an_answer_is_named(read):
    table = made_logs.tables()[released.REFERENCE].assign(answer=["#### 5", "many", "#### 8", "#### 3"])
    with pytest.raises(InputError, match=r"extracted_true_answers\.csv: row 2: answer = 'many': must end in"):
        read({released.REFERENCE: table})


def test_a_log_is_read_as_spreadsheets_write_it(tmp_path):
    folder = made_logs.write(tmp_path)
    lines = (folder / LOG).read_text().replace("\n", "\r\n\r\n")
    (folder / LOG).write_text(f"\ufeff{lines}", newline="")
    assert list(released.read(folder)["teacher"]["response"]) == made_logs.RESPONSES


def test_a_row_that_is_cut_short_is_named(tmp_path):
    folder = made_logs.write(tmp_path)
    (folder / LOG).write_text((folder / LOG).read_text().rpartition(",No idea")[0])
    with pytest.raises(InputError, match=rf"{LOG}: row 4: model_answer = nan: must be text"):
        released.read(folder)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'a,b\n"1'])
def test_a_file_that_is_no_csv_is_named(tmp_path, content):
    folder = made_logs.write(tmp_path)
    (folder / LOG).write_bytes(content)
    with pytest.raises(InputError, match=rf"{LOG}: "):
        released.read(folder)


def test_a_fingerprint_follows_the_content(tmp_path):
    folder = made_logs.write(tmp_path)
    before = provenance.logs(folder)
    made_logs.write(tmp_path, {LOG: made_logs.tables()[LOG].assign(model_output_tokens=7)})
    after = provenance.logs(folder)
    assert {name for name in before if before[name] != after[name]} == {LOG}
