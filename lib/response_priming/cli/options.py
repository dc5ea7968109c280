"""Arguments that several commands have."""

from typing import Annotated

import typer

ProfileName = Annotated[str, typer.Argument(help="Parameter set: params/PROFILE.yaml.")]
ProfileOption = Annotated[str, typer.Option(help="Parameter set: params/PROFILE.yaml.")]
