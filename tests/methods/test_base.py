import sys
from types import ModuleType
from typing import ClassVar

import pytest

from response_priming import artifacts
from response_priming.distill import training
from response_priming.errors import InputError
from response_priming.methods import base
from response_priming.methods.base import Method


@pytest.fixture
def planted(monkeypatch):
    """A module of methods, `planted`, with one method of two parameters and a control."""
    module = ModuleType("response_priming.methods.planted")

    class Planted(Method):
        controls: ClassVar = {"off": {"weight": 0.0}}
        version: ClassVar[int] = 3
        weight: float = 0.5
        layers: int = 2

    Planted.__module__ = module.__name__
    module.Planted, module.Method = Planted, Method
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return Planted


def test_a_method_is_found_by_its_name_with_its_parameters(planted, make_run):
    described = base.described("planted", {"layers": 3})
    assert described == {"name": "planted", "version": 3, "parameters": {"weight": 0.5, "layers": 3}}
    method = base.method_of(make_run("distill").by(described))
    assert isinstance(method, planted)
    assert (method.weight, method.layers) == (0.5, 3)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("planed", {}, r"method 'planed': there is no planed.py in methods/"),
        ("losses", {}, r"method 'losses': response_priming.methods.losses has 0 methods"),
        ("planted", {"weight": "much"}, r"method planted: weight = 'much': input should be a valid number"),
        ("planted", {"heat": 1.0}, r"method planted: heat = 1.0: unknown key; allowed: weight, layers"),
    ],
)
@pytest.mark.usefixtures("planted")
def test_an_unknown_method_or_parameter_is_one_line(name, changed, message):
    with pytest.raises(InputError, match=message):
        base.described(name, changed)


@pytest.mark.parametrize("changed", [{}, {"weight": 0.5}, {"weight": 0.0, "layers": 3}])
def test_a_control_differs_from_its_method_in_one_thing(planted, changed):
    with pytest.raises(TypeError, match=r"control 'odd' changes .*, and not one parameter"):

        class Other(planted):
            controls: ClassVar = {"odd": changed}


@pytest.mark.usefixtures("planted")
def test_a_method_counts_only_where_it_is_used(make_run):
    for stage in ("distill", "evaluate"):
        run = make_run(stage, arm="fine-tuned")
        plain, other = (one.folders[0] for one in (run, run.by(base.described("planted"))))
        assert "method" not in plain.more
        assert other.more["method"]["version"] == 3


def test_a_teacher_that_is_asked_in_training_decides_the_result(make_run):
    run = make_run("distill", arm="fine-tuned")
    folder = run.folders[0]
    asked = [run.asking(make_run("generate", strategy="none", worked_examples=count)) for count in (1, 2)]
    plain, *others = [artifacts.recipe(one, folder)["parameters"] for one in (run, *asked)]
    assert "live" not in plain
    assert [one["live"]["worked_examples"] for one in others] == [1, 2]
    assert others[0]["live"]["teacher_weights"].startswith("folder:")
    # Neither where it runs nor what the run says itself.
    assert not {"generate_batch", "seed", "data"} & others[0]["live"].keys()


@pytest.mark.usefixtures("planted")
def test_several_processes_with_a_method_that_cannot_are_one_line(make_run):
    run = make_run("distill", arm="fine-tuned")
    assert training._micro_batch(run, 2) == 4
    with pytest.raises(InputError, match="method 'planted': is trained by one process, and there are 2"):
        training._micro_batch(run.by(base.described("planted")), 2)
