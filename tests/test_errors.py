from response_priming import paths
from response_priming.errors import InputError


def test_a_path_within_the_project_is_shown_relative_to_it(tmp_path):
    error = InputError(f"{paths.BUILD / 'laptop'}: embeds {tmp_path / 'fig.svg'}, not {paths.REPORT / 'index.qmd'}")
    assert str(error) == f"build/laptop: embeds {tmp_path / 'fig.svg'}, not report/index.qmd"
