"""What the commands have in common: the arguments they share, recipes and their options."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from basinet.terminal import console

Arguments = Annotated[
    list[str], typer.Argument(help="A recipe (*.yaml), data files or stores, and key=value options, in any order.")
]
Out = Annotated[Path, typer.Option(help="Run directory to make (or to resume).")]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Go on with the run in --out.")]
ModelFile = Annotated[Path, typer.Argument(help="Model file (*.safetensors).")]
DataFile = Annotated[Path, typer.Argument(help="Molecules: .xyz .sdf .npz .traj .db .h5 .csv, a store, or qm9: ...")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
EnergyUnit = Annotated[
    str | None, typer.Option(help="Unit of the energies in the file: eV, meV, Ha, kcal/mol, kJ/mol.")
]
EnergyKey = Annotated[str | None, typer.Option(help="Where the energies are in the file.")]
ForcesKey = Annotated[
    str | None, typer.Option(help="Where the forces are in the file; with a minus before it, they are gradients.")
]
PropertyKey = Annotated[
    str | None, typer.Option(help="Column of the property in the file; without it, the name of the property.")
]
PropertyUnit = Annotated[
    str | None, typer.Option(help="Unit of the property in the file: eV, D, bohr^3, cal/mol/K ..., 1 for none.")
]


class Outside(StrEnum):
    """What to do with molecules unlike those in training."""

    ERROR = "error"
    WARN = "warn"


OutsideScope = Annotated[
    Outside, typer.Option(help="Molecules unlike those the model was trained on: refuse them, or answer and say so.")
]
LengthUnit = Annotated[str | None, typer.Option(help="Unit of the positions in the file: Angstrom, bohr, nm.")]


class RecipeCommand(TyperCommand):
    """A command whose ``--help`` lists the options of its recipe."""

    recipe = ""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the usual help, then every option with its allowed values, default and meaning."""
        super().format_help(ctx, formatter)
        from rich.markup import escape
        from rich.padding import Padding

        import basinet.commands.assay.recipe as assay_recipe
        import basinet.commands.build as build_store
        import basinet.commands.compare as compare
        import basinet.commands.recipe as recipes
        import basinet.data.generation.configurations as configurations
        import basinet.options as options

        kinds = {
            "pretrain": {"of the recipe": recipes.PretrainRecipe},
            "finetune": {"of the recipe": recipes.FinetuneRecipe, "for a table of SMILES": assay_recipe.AssayRecipe},
            "generate": {"of the recipe": configurations.GenerateConfig},
            "build": {"of the recipe": build_store.BuildRecipe},
            "compare": {"of the recipe": compare.CompareRecipe},
        }[self.recipe]
        for what, kind in kinds.items():
            console.print(f"\n Options {what}, as [bold]key=value[/bold] or in a YAML file:\n")
            for option in options.describe(kind):
                allowed = "" if option.kind == option.default else f"  ({option.kind})"
                console.print(f" [bold]{option.name}[/bold]={escape(option.default + allowed)}")
                console.print(Padding(escape(" ".join(option.text.split())), (0, 0, 0, 6)))


class PretrainCommand(RecipeCommand):
    """Lists the options of pre-training."""

    recipe = "pretrain"


class FinetuneCommand(RecipeCommand):
    """Lists the options of fine-tuning."""

    recipe = "finetune"


class BuildCommand(RecipeCommand):
    """Lists the options of building a store."""

    recipe = "build"


class CompareCommand(RecipeCommand):
    """Lists the options of a comparison."""

    recipe = "compare"


class GenerateCommand(RecipeCommand):
    """Lists the options of data generation."""

    recipe = "generate"


@dataclass(frozen=True, kw_only=True)
class RecipeArguments:
    """Positional arguments of a command with a recipe, told apart by their look."""

    recipe: Path | None
    data: Sequence[Path]
    overrides: Sequence[str]

    @staticmethod
    def parse(arguments: Sequence[str]) -> "RecipeArguments":
        """Sort arguments into recipe, data and options."""
        overrides = [a for a in arguments if "=" in a and not Path(a).exists()]
        paths = [Path(a) for a in arguments if a not in overrides]
        recipes = [p for p in paths if p.suffix in (".yaml", ".yml")]
        files = [p for p in paths if p not in recipes]
        _require_one("recipe", recipes)
        return RecipeArguments(recipe=_packaged(recipes[0]) if recipes else None, data=files, overrides=overrides)

    @property
    def one_data(self) -> str | None:
        """The data file, where there may be only one."""
        _require_one("data file", self.data)
        return str(self.data[0]) if self.data else None

    @property
    def all_data(self) -> str | list[str] | None:
        """The data file, or several."""
        return list(map(str, self.data)) if len(self.data) > 1 else self.one_data


def _require_one(kind: str, found: Sequence[Path]) -> None:
    if len(found) > 1:
        raise ValueError(f"expected one {kind}, got {', '.join(map(str, found))}")


def _packaged(path: Path) -> Path:
    """Return a recipe file, or the one of that name that comes with basinet."""
    from basinet.commands.recipe import RECIPES

    shipped = RECIPES / path.name
    return shipped if not path.exists() and path.parent == Path() and shipped.exists() else path
