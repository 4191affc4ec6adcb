"""Commands with a recipe: their arguments, and help on one screen (``--help``) or in full (``--help-all``)."""

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from basinet.cli.settings import load_class

if TYPE_CHECKING:
    from basinet.options import Option

HELP_ALL = "--help-all"
INDENT = 28
"""Columns before the text of an option."""


@dataclass(frozen=True, kw_only=True)
class RecipeHelp:
    """Recipes of a command, and the options that most people use."""

    recipes: Mapping[str, str]
    """``module:Class`` by what the recipe is for."""
    common: tuple[str, ...]
    """Options of the first recipe that ``--help`` shows."""


_TRAINING = (
    "model.n_features",
    "model.n_layers",
    "training.n_steps",
    "training.batch_size",
    "training.optimizer.learning_rate",
)
HELP: Mapping[str, RecipeHelp] = {
    "pretrain": RecipeHelp(
        recipes={"": "basinet.commands.recipe:PretrainRecipe"},
        common=(
            *("from", "validation_fraction", "objective.kind", "model.kind", *_TRAINING, "training.seed"),
            *("launch.accelerator", "launch.devices"),
        ),
    ),
    "finetune": RecipeHelp(
        recipes={
            "": "basinet.commands.recipe:FinetuneRecipe",
            "for a table of SMILES": "basinet.commands.assay.recipe:AssayRecipe",
        },
        common=(
            *("from", "n_train", "n_test", "split", "objective.kind", *_TRAINING),
            *("units.energy_unit", "launch.accelerator"),
        ),
    ),
    "compare": RecipeHelp(
        recipes={"": "basinet.commands.compare:CompareRecipe"},
        common=(
            *("from", "sizes", "seeds", "n_validation", "n_test", "objective.kind", *_TRAINING[2:]),
            *("units.energy_unit", "units.forces_key", "processes"),
        ),
    ),
    "generate": RecipeHelp(
        recipes={"": "basinet.data.generation.configurations:GenerateConfig"},
        common=(
            *("smiles_file", "n_molecules", "exclude", "calculator", "calculator_options", "n_conformers"),
            *("frames_per_conformer", "temperatures", "normal_mode_frames", "displaced_frames", "seed", "processes"),
        ),
    ),
    "build": RecipeHelp(
        recipes={"": "basinet.commands.build:BuildRecipe"},
        common=(
            *("units.energy_unit", "units.length_unit", "units.energy_key", "units.forces_key"),
            *("units.level_of_theory", "properties", "is_equilibrium", "skip_invalid", "perceive_bonds", "processes"),
        ),
    ),
}
"""By the name of the command."""


class RecipeCommand(TyperCommand):
    """A command whose help lists the options of its recipe, as :data:`HELP` says."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Answer ``--help-all``; name the right form of a recipe option that is typed as ``--option``."""
        if HELP_ALL in args:
            typer.echo("\n".join(self._everything()))
            ctx.exit()
        known = {"--help", *(name for p in self.get_params(ctx) for name in (*p.opts, *p.secondary_opts))}
        for argument in args:
            name = argument.partition("=")[0]
            if name.startswith("--") and name not in known:
                option = name[2:].replace("-", "_")
                if option in {o.name for kind in self._kinds().values() for o in _described(kind)}:
                    raise ValueError(f"{name} is an option of the recipe; expected {option}=VALUE, without dashes")
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, and the options that most people use."""
        own: list[Any] = [p for p in self.get_params(ctx) if p.name != "help"]
        arguments = [_name(p) for p in own if p.param_type_name == "argument"]
        lines = [f"Usage: {ctx.command_path} {' '.join(arguments)} [OPTIONS]", "", *self._about(), ""]
        for parameter in own:
            lines += _entry(_name(parameter), parameter.help + ("  [required]" if parameter.required else ""))
        lines += [*_entry(HELP_ALL, "List every option, in groups."), "", "Options, as key=value or in a YAML file:"]
        described = _defaults(_described(next(iter(self._kinds().values()))))
        for name in HELP[self.name or ""].common:
            option = described[name]
            lines += _entry(f"{name}={option.default}", _first_sentence(option.text), most=2)
        formatter.write("\n".join(lines) + "\n")

    def _about(self) -> list[str]:
        return [
            line
            for paragraph in inspect.cleandoc(self.help or "").split("\n\n")
            for line in textwrap.wrap(" ".join(paragraph.split()), _width())
        ]

    def _kinds(self) -> dict[str, type[Any]]:
        return {purpose: load_class(path) for purpose, path in HELP[self.name or ""].recipes.items()}

    def _everything(self) -> Iterator[str]:
        """Yield the lines of every option; of a second recipe, those options that the first has not alike."""
        seen: set[Option] = set()
        for purpose, kind in self._kinds().items():
            if purpose:
                yield f"\nOPTIONS {purpose.upper()}, beside those above that it shares"
            options = [option for option in _described(kind) if option not in seen]
            seen.update(options)
            for (group, when), members in groupby(options, key=lambda option: (option.group, option.when)):
                yield f"\n{group or 'run and data'}" + (f", with {when}" if when else "") + ":"
                for option in members:
                    allowed = "" if option.kind == option.default else f"({option.kind}) "
                    yield from _entry(f"{option.name}={option.default}", allowed + option.text)


def _described(kind: type[Any]) -> "list[Option]":
    """Return the options of a recipe, those without a group first."""
    from basinet.options import describe

    return sorted(describe(kind), key=lambda option: bool(option.group))


def _defaults(options: "Sequence[Option]") -> "dict[str, Option]":
    """Return options by name; where a ``kind`` selects among several of a name, that of the default kind."""
    chosen = {f"{option.name}={option.default}" for option in options} | {""}
    return {option.name: option for option in options if option.when in chosen}


def _name(parameter: Any) -> str:
    """Return a parameter as it is typed."""
    return (
        (parameter.metavar or parameter.name.upper()) if parameter.param_type_name == "argument" else parameter.opts[0]
    )


def _entry(name: str, text: str, most: int | None = None) -> list[str]:
    """Return an option and its text in two columns, the text in ``most`` lines at most."""
    lines = textwrap.wrap(text, _width() - INDENT, max_lines=most, placeholder=" ...")
    if len(name) + 2 > INDENT - 2:
        return [f"  {name}", *(" " * INDENT + line for line in lines)]
    return [f"  {name}".ljust(INDENT) + lines[0], *(" " * INDENT + line for line in lines[1:])]


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).split(". ")[0].rstrip(".") + "."


def _width() -> int:
    return min(max(shutil.get_terminal_size().columns, 60), 100)


_OPTION = re.compile(r"[^=/]*=")
"""Beginning of an option; a path may have ``=`` after a slash: ``runs/T=300``."""


@dataclass(frozen=True, kw_only=True)
class RecipeArguments:
    """Positional arguments of a command with a recipe, told apart by their form."""

    recipe: Path | None
    data: Sequence[Path]
    overrides: Sequence[str]

    @staticmethod
    def parse(arguments: Sequence[str]) -> "RecipeArguments":
        """Sort arguments into recipe, data and options."""
        overrides = [a for a in arguments if _OPTION.match(a) and not Path(a).exists()]
        paths = [Path(a) for a in arguments if a not in overrides]
        recipes = [p for p in paths if p.suffix in (".yaml", ".yml")]
        files = [p for p in paths if p not in recipes]
        _require_one("recipe", recipes)
        return RecipeArguments(recipe=_packaged(recipes[0]) if recipes else None, data=files, overrides=overrides)

    def with_output(self, last: str, kind: type[Any]) -> "RecipeArguments":
        """Take the last argument for a path, such as T=300, if its name is no option of the recipe and like none."""
        known = {name for option in _described(kind) for name in (option.name, option.name.partition(".")[0])}
        if last not in self.overrides or get_close_matches(last.partition("=")[0], known, n=1):
            return self
        return replace(self, data=[*self.data, Path(last)], overrides=[o for o in self.overrides if o != last])

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
