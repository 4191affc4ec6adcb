"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from basinet.cli.settings import Listed

Arguments = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA... KEY=VALUE...",
        help="A recipe (*.yaml), data files or stores, and options as key=value, in any order.",
    ),
]
Out = Annotated[Path, typer.Option(help="Run directory to make or to resume.")]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Resume the run in --out.")]
ModelFile = Annotated[Path, typer.Argument(help="Model file (*.safetensors).")]
DataFile = Annotated[Path, typer.Argument(help="Molecules: .xyz .sdf .npz .traj .db .h5 .csv, a store, or qm9: ...")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or one of several GPUs such as cuda:1.")]
Processes = Annotated[int | None, typer.Option(help="Processes that make conformers of a table; default: all cores.")]
ScopePolicy = Literal["error", "warn"]
"""Treatment of molecules unlike those in training."""
OutsideScope = Annotated[
    ScopePolicy, typer.Option(help="Molecules unlike those in training: refuse them, or answer and mark them.")
]

READING = Listed(
    path="basinet.commands.recipe:UnitsConfig", only=("energy_unit", "length_unit", "energy_key", "forces_key")
)
"""Units and keys of a file of molecules."""
READING_PROPERTY = Listed(path=READING.path, only=(*(READING.only or ()), "property_key", "property_unit"))
"""The same, with the column of a property."""
