"""Profiles: parameter sets (`params/NAME.yaml`), nested by section, read and validated; and a notebook's own values."""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from response_priming import arms, paths
from response_priming.errors import InputError, first_problem
from response_priming.params.base import Run, Section
from response_priming.params.fields import Arms, Seed, Seeds, is_on_hub, known_arms
from response_priming.params.runs import RUNS
from response_priming.params.sections import (
    SOFT,
    Attention,
    Attribution,
    Audit,
    Cluster,
    Distill,
    Doctor,
    Evaluate,
    Generate,
    Ladder,
    Model,
    Problems,
    Related,
    Search,
)

DEFAULTS: Any = Field({}, validate_default=True)  # a section as if nothing of it were said


class Profile(Section):
    """A full parameter set: `params/NAME.yaml`."""

    name: arms.Name
    seed: Seed
    seeds: Seeds
    arms: Arms
    problems: Problems = DEFAULTS
    model: Model = DEFAULTS
    generate: Generate = DEFAULTS
    distill: Distill = DEFAULTS
    evaluate: Evaluate = DEFAULTS
    cluster: Cluster = DEFAULTS
    attention: Attention = DEFAULTS
    audit: Audit = DEFAULTS
    ladder: Ladder = DEFAULTS
    doctor: Doctor = DEFAULTS
    related: Related = DEFAULTS
    search: Search = DEFAULTS
    attribution: Attribution = DEFAULTS
    overrides: Annotated[dict[str, dict[str, Any]], AfterValidator(known_arms)] = Field(
        {}, description="per arm: values of `distill` that differ there"
    )

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if arms.SHOWN in self.arms and not self.generate.worked_examples:
            raise ValueError(f"arms: {arms.SHOWN!r} is {arms.UNDISTILLED!r} where generate.worked_examples = 0")
        for arm in self.overrides:
            if arm not in self.trained:
                raise ValueError(f"overrides.{arm}: ignored; the trained arms are {', '.join(self.trained) or 'none'}")
        trainings = {arm: self.distill_of(arm) for arm in self.trained}
        for name, section in self:
            for key, why in self._ignored(name).items() if isinstance(section, Section) else ():
                value = getattr(section, key)
                used = name == "distill" and any(key not in one.ignored() for one in trainings.values())
                if value != type(section).model_fields[key].default and not used:
                    raise ValueError(f"{name}.{key} = {value!r}: ignored; {why}")
        for arm, own in self.overrides.items():
            without = dict.fromkeys((*SOFT, "signal", "hard_labels"), "the arm has no teacher")
            ignored = trainings[arm].ignored() | (without if arm == arms.FINE_TUNED else {})
            for key in filter(ignored.__contains__, own):
                if own[key] != getattr(self.distill, key):
                    raise ValueError(f"overrides.{arm}.{key} = {own[key]!r}: ignored; {ignored[key]}")
        return self

    def _ignored(self, name: str) -> dict[str, str]:
        """See `Section.ignored`; and what means nothing beside values of other sections."""
        found = dict(getattr(self, name).ignored())
        if name == "cluster" and "ray" not in (self.generate.engine, self.evaluate.evaluate_engine):
            found |= dict.fromkeys(
                Cluster.model_fields, "neither generate.engine nor evaluate.evaluate_engine is 'ray'"
            )
        if name == "generate" and self.cluster.inside(self.generate.engine) == "transformers":
            parallel = dict.fromkeys(("tensor_parallel", "pipeline_parallel"), "engine 'transformers' knows none")
            found |= parallel
        return found

    def changed(self, parameter: str, value: object) -> Self:
        """The profile with one parameter changed, `distill.alpha` or `seeds`, and its name kept.

        Raises:
            InputError: there is no such parameter, or the value is not allowed.
        """
        section, _, key = parameter.rpartition(".")
        content = self.model_dump()
        of = content.get(section) if section else content
        if key == "name" or not isinstance(of, dict) or key not in of or isinstance(of[key], dict):
            raise InputError(f"{parameter}: unknown parameter; `response-priming check {self.name}` prints all")
        of[key] = value
        try:
            return type(self).model_validate(content)
        except ValidationError as error:
            raise InputError(first_problem(error, type(self))) from None

    @property
    def build(self) -> Path:
        """Where its artefacts are."""
        return paths.BUILD / self.name

    @property
    def from_hub(self) -> dict[str, tuple[str, str | None]]:
        """The models of the hub that it uses, by parameter: name and revision."""
        used = {"model.student": (self.model.student, self.model.student_revision)}
        if self.strategies or self.scored:
            used = {"generate.teacher": (self.generate.teacher, self.generate.teacher_revision)} | used
        return {parameter: model for parameter, model in used.items() if is_on_hub(model[0])}

    @property
    def written(self) -> str:
        """Every parameter, as YAML."""
        return str(yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True, width=120))

    @property
    def strategies(self) -> list[str]:
        """The strategies under which the teacher answers, because an arm learns from its responses."""
        return self._strategies("responses")

    @property
    def scored(self) -> list[str]:
        """The strategies whose prompts the teacher scores, because an arm learns from these signals."""
        return self._strategies("prompt-signals")

    def _strategies(self, store: str) -> list[str]:
        stores = [arms.store_of(arm, self.distill_of(arm).repaired) for arm in self.arms]
        return list(dict.fromkeys(found.name for found in stores if found and found.parent.name == store))

    @property
    def trained(self) -> list[str]:
        """The arms that are trained."""
        return [arm for arm in self.arms if arm not in arms.UNTRAINED]

    def distill_of(self, arm: str) -> Distill:
        """The distill section with what is this arm's own: the released training, where its name says so, overrides."""
        own = self.distill.as_released if arm.startswith(arms.RELEASED) else {}
        try:
            return Distill.model_validate(self.distill.model_dump() | own | self.overrides.get(arm, {}))
        except ValidationError as error:
            raise ValueError(f"overrides.{arm}.{first_problem(error, Distill)}") from None

    def run(self, stage: str, **item: str) -> Run:
        """The flat parameters of one stage for one strategy or arm."""
        sections = (
            self.problems,
            self.model,
            self.generate,
            self.distill_of(item.get("arm", item.get("strategy", ""))),
            self.evaluate,
            self.cluster,
            self.attention,
            self.audit,
            self.ladder,
            self.doctor,
            self.related,
            self.search,
            self.attribution,
        )
        values: dict[str, Any] = {"profile": self.name, "seed": self.seed, "seeds": self.seeds, "arms": self.arms}
        values |= {"strategies": self.strategies} | item
        for section in sections:
            values |= section.model_dump()
        return RUNS[stage].of(values)


def profiles() -> list[str]:
    """Names of the parameter sets in params/."""
    data_files = ("prompts", "published-results")
    return sorted(path.stem for path in paths.PARAMS.glob("*.yaml") if path.stem not in data_files)


def load(name: str) -> Profile:
    """Read and validate `params/NAME.yaml`.

    GSM8K_DIR, where set, becomes `problems.data_dir` of a GSM8K profile; PUBLISHED_LOGS becomes `audit.logs_dir`.

    Raises:
        InputError: no such profile, or a key or value outside the schema.
    """
    if name not in profiles():
        raise InputError(f"params/{name}.yaml: no such profile; there are: {', '.join(profiles())}")
    content = arms.read_yaml(paths.PARAMS / f"{name}.yaml")
    if "name" in content:
        raise InputError(f"params/{name}.yaml: name = {content['name']!r}: unknown key; a profile is named by its file")
    problems = content.get("problems")
    if os.environ.get("GSM8K_DIR") and isinstance(problems, dict) and problems.get("dataset") == "gsm8k":
        problems["data_dir"] = os.environ["GSM8K_DIR"]
    if os.environ.get("PUBLISHED_LOGS") and isinstance(content.setdefault("audit", {}), dict):
        content["audit"]["logs_dir"] = os.environ["PUBLISHED_LOGS"]
    try:
        return Profile.model_validate({"name": name} | content)
    except ValidationError as error:
        raise InputError(f"params/{name}.yaml: {first_problem(error, Profile)}") from None


def collect(stage: str, namespace: dict[str, Any]) -> Any:
    """A notebook's parameters as one validated object; says so when they differ from the profile's own.

    Args:
        stage: the notebook's stem.
        namespace: the notebook's `globals()`.
    """
    run_type = RUNS[stage]
    try:
        run = run_type.of(namespace)
    except ValidationError as error:
        raise InputError(f"{stage}.ipynb: {first_problem(error, run_type)}") from None
    if run != load(run.profile).run(stage, **run.item):
        digest = hashlib.sha256(run.model_dump_json().encode()).hexdigest()[:8]
        run = run.exploring(run.build / "explored" / digest)
        print(f"Exploring: parameters differ from profile {run.profile}; results go to {paths.shown(run.output)}")
    return run


def parameters_cell(stage: str) -> str:
    """The source of a notebook's `parameters` cell, so that names, defaults and meanings come from the schema."""
    lines = [
        "# The defaults of profile laptop. Change any value and run on: results then go to build/PROFILE/explored/."
    ]
    for name, field in RUNS[stage].model_fields.items():
        default = field.get_default()
        written = json.dumps(default) if isinstance(default, str | list) else repr(default)
        lines.append(f"{name} = {written}  # {field.description}")
    return "\n".join(lines)
