"""What all sections of a profile share, and all runs: how one says what is ignored, what is idle, what it writes."""

from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, Field, PrivateAttr

from response_priming import arms, paths
from response_priming.params.fields import Seed


class Section(BaseModel):
    """One section of a profile: unknown keys are refused, values are not changed after loading."""

    model_config = arms.STRICT

    def ignored(self) -> dict[str, str]:
        """Parameters that mean nothing beside other values of the section: name -> where they are ignored, in words."""
        return {}


class Folder(NamedTuple):
    """A folder that a run writes, what it reads of other stages, and the modules that make it, as `compare.comparison`.

    `more`: what decides its content beside the run's parameters. `by_model`: a model makes it, so that a change of the
    code alone does not make it again (see `artifacts.VERSIONS`).
    """

    path: Path
    code: list[str]
    reads: list[Path]
    more: dict[str, Any]
    by_model: bool = True


class Run(BaseModel):
    """What every notebook is given. `idle`: parameters that shape nothing of what its stage writes.

    `explored`: a value differs from the profile's, as after an edit in JupyterLab (see `collect`). `beside`: the run is
    of a student beside the arms, as a rung of the ladder.
    """

    model_config = arms.STRICT
    stage: ClassVar[str]
    # Where the data lies, and what they may be, says nothing of them; a recipe has their content. How many processes
    # share a step is up to the machine.
    idle: ClassVar[frozenset[str]] = frozenset({"profile", "data_dir", "allow_leaked", "train_processes"})
    profile: arms.Name = Field("laptop", description="parameter set, params/PROFILE.yaml")
    seed: Seed
    _explored: Path | None = PrivateAttr(None)
    _beside: Path | None = PrivateAttr(None)
    _taught: Path | None = PrivateAttr(None)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """A run with those of the values that it has parameters for."""
        return cls.model_validate({key: value for key, value in values.items() if key in cls.model_fields})

    def exploring(self, folder: Path) -> Self:
        """This run, writing aside, so that it never passes for the profile's result."""
        run = self.model_copy()
        run._explored = folder
        return run

    def placed(self, folder: Path, taught: Path | None = None) -> Self:
        """This run with a folder of its own for its student and what that answers.

        Args:
            taught: the folder that its teacher's responses are in, where they are not the profile's.
        """
        run = self.model_copy()
        run._beside, run._taught = folder, taught
        return run

    @property
    def build(self) -> Path:
        """Where this profile's artefacts are."""
        return paths.BUILD / self.profile

    @property
    def output(self) -> Path:
        """Where this run writes."""
        return self._explored or self._beside or self.build

    @property
    def item(self) -> dict[str, str]:
        """The strategy or arm this run is for."""
        return {}

    @property
    def shaping(self) -> dict[str, Any]:
        """Its parameters that shape what its stage writes."""
        return self.model_dump(exclude=set(self.idle))

    @property
    def folders(self) -> list[Folder]:
        """What this run writes, each after those it reads; empty where its notebook keeps what it makes by itself."""
        return []

    @property
    def reads(self) -> list[Path]:
        """The folders of other stages that it reads."""
        own = [folder.path for folder in self.folders]
        return list(dict.fromkeys(path for folder in self.folders for path in folder.reads if path not in own))
