"""Declare the recipes of training runs, and read recipes from YAML files and ``key=value`` overrides.

Options are fields of frozen dataclasses; those of networks, objectives and training stand beside what they build. A run
is reproduced from the resolved recipe in its directory.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from annotated_types import Ge, Gt, Lt
from pydantic import AllowInfNan, BeforeValidator, Discriminator, Field, Tag

from basinet.backbones.build import BackboneConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.backbones.plugin import load_plugin
from basinet.config import (
    Count,
    NonNegative,
    PathText,
    Positive,
    adapter,
    dump_settings,
    expanded,
    read_settings,
    settings,
)
from basinet.data.files.options import PropertyColumn, Reading
from basinet.data.sources.names import locate
from basinet.files import write_text
from basinet.md.stability import StabilityConfig
from basinet.objectives.methods import EnergyForcesConfig, ForceAndDenoiseConfig, ObjectiveConfig, property_settings
from basinet.training.fit import TrainingConfig
from basinet.training.optim import OptimizerConfig
from basinet.units import PROPERTY
from basinet.yaml_text import Typed, parse_option, parse_text, plain

Recipe = TypeVar("Recipe")
Temperature = Annotated[float, Ge(1), AllowInfNan(False)]
Fraction = Annotated[float, Gt(0), Lt(1)]

PLUGIN_FILE = "plugin.py"
"""Copy of the plugin in a run directory, as it was when the run began."""
RECIPES = Path(__file__).parents[1] / "recipes"
"""The recipes that come with basinet."""
SCRATCH = "scratch"
"""Value of ``from`` for a run that starts with fresh weights."""


@settings
class LaunchConfig:
    """Processes and kernels of a run."""

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Kind of device; auto: a GPU if there is one."""
    devices: Count = 1
    """Processes on each machine, one device each. They are started by basinet, torchrun or SLURM."""
    nodes: Count = 1
    """Machines."""
    threads: Count | None = None
    """CPU threads of each process; null: as torch decides."""
    keep_memory: bool = False
    """Keep freed memory in the process (Linux with glibc): fewer page faults, and memory stays at its peak."""
    kernels: Literal["auto", "plain", "native", "triton"] = "auto"
    """Implementation of the messages of the Equivariant Transformer. plain: PyTorch. native: C++ kernels for CPUs, two
    to three times as fast, compiled in seconds. triton: GPU kernels. auto: native on a CPU with a C++ compiler. Where
    kernels are missing, the run says so and uses PyTorch."""


@settings
class UnitsConfig:
    """Units and keys of a file; a store has its own."""

    energy_unit: str | None = None
    """Unit of energies: eV, meV, Ha, kcal/mol or kJ/mol; null: eV. Forces are in this per length unit."""
    length_unit: str | None = None
    """Unit of positions: Angstrom, bohr or nm; null: Angstrom."""
    energy_key: str | None = None
    """Key of the energies; null: REF_energy, the calculator's, energy, in this order."""
    forces_key: str | None = None
    """Key of the forces; null: REF_forces, the calculator's, forces, in this order."""
    property_key: str | None = None
    """Column of the property, or array of an .npz; null: the name of its label."""
    property_unit: str | None = None
    """Unit of the property: an energy unit, D, e*bohr, bohr^2, bohr^3, cal/mol/K ..., or 1 for none."""
    level_of_theory: str = ""
    """Level of theory of the labels; recorded in the model."""
    bonds: Literal["auto", "file", "perceive"] = "auto"
    """Source of bonds. auto: the file or store, or else the SMILES or the coordinates if the run needs bonds; file: the
    file or store only; perceive: always the SMILES or the coordinates."""

    def reading(self, columns: Sequence[PropertyColumn] = ()) -> Reading:
        """Return the options for reading a file, with the columns of properties to read."""
        return Reading(
            energy_unit=self.energy_unit,
            length_unit=self.length_unit,
            energy_key=self.energy_key,
            forces_key=self.forces_key,
            columns=tuple(columns),
            level_of_theory=self.level_of_theory,
        )


def property_columns(path: Path, units: UnitsConfig, label: str | None) -> tuple[PropertyColumn, ...]:
    """Return the column of a file that holds a property; none for a store, which has its labels by name.

    Raises:
        ValueError: the unit is not given, or a column is given where none is read.
    """
    given = units.property_key is not None or units.property_unit is not None
    if label is None or locate(path).is_dir():
        if given:
            reason = (
                "energies and forces are learned here" if label is None else f"{path} is a store and has its labels"
            )
            raise ValueError(f"{reason}; leave property_key and property_unit out")
        return ()
    if units.property_unit is None:
        raise ValueError(
            f"{path} does not say the unit of {label!r}; give property_unit, one of {', '.join(PROPERTY)} (1: without "
            "a unit)"
        )
    return (PropertyColumn(name=label, key=units.property_key or label, unit=units.property_unit),)


@settings
class SourceConfig:
    """One of several stores or files to train on."""

    path: Path
    """The store, or a file of molecules."""
    name: str | None = None
    """Name in logs; null: the name of the file without its ending."""
    weight: Positive | None = None
    """Frequency of its molecules relative to the weights of the others; null: see mixing_temperature."""
    is_equilibrium: bool | None = None
    """All its positions are minima; null: as the store says; false for a file."""
    level_of_theory: str | None = None
    """Level of theory of its labels; null: that of the store or of units."""
    leave_out: tuple[str, ...] = ()
    """Labels not to use, such as energy."""
    units: UnitsConfig | None = None
    """Units and keys of a file; null: those of the recipe."""

    def __post_init__(self) -> None:
        """Check the name."""
        if self.name is not None and (not self.name or "/" in self.name):
            raise ValueError(f"name must be a word without /, got {self.name!r}")


def _one_or_several(value: object) -> str:
    return "several" if isinstance(value, list | tuple) else "one"


def _sources(value: Any) -> Any:
    """Let a bare path stand for a source."""
    return [{"path": item} if isinstance(item, str | Path) else item for item in value]


Sources = Annotated[tuple[SourceConfig, ...], BeforeValidator(_sources)]


def _check_sources(data: Path | tuple[SourceConfig, ...]) -> None:
    if data == ():
        raise ValueError("data is an empty list; expected a path, or a list of paths")


Data = Annotated[Annotated[Path, Tag("one")] | Annotated[Sources, Tag("several")], Discriminator(_one_or_several)]
"""A path, or a list of paths and of groups of options with a path."""


@settings
class PretrainRecipe:
    """Pre-train a model on a store of many molecules."""

    data: Data
    """The store, or a file of molecules; or a list of them. In place of a path a list may have groups of options: path,
    name, weight, is_equilibrium, level_of_theory, leave_out, units."""
    mixing_temperature: Temperature = 2.0
    """Temperature T of drawing from several sources: one of n molecules is drawn with a probability proportional to
    n^(1/T). 1: as if they were one; larger: small sources are drawn more often."""
    units: UnitsConfig = UnitsConfig()
    """Units and keys of a file, or of all files."""
    validation_fraction: Fraction = 0.05
    """Fraction of the compounds kept for validation."""
    model: BackboneConfig = EquivariantTransformerConfig()
    """The network."""
    start: Annotated[Path | None, Field(alias="from")] = None
    """A model file to start from; null: fresh weights."""
    objective: ObjectiveConfig = ForceAndDenoiseConfig()
    """Objective."""
    plugin: Path | None = None
    """Python file with a function objective() that returns the objective to learn, or with a backbone (model.kind).
    It is executed."""
    plugin_options: dict[str, Any] | None = None
    """Arguments of that function, by name, as plugin_options.NAME=VALUE."""
    training: TrainingConfig = TrainingConfig(n_steps=20_000, batch_size=64, validate_every=1000, save_every=500)
    """Length, batches, optimiser."""
    launch: LaunchConfig = LaunchConfig()
    """Processes and kernels."""

    def __post_init__(self) -> None:
        """Check the objective, the data and the plugin."""
        if property_settings(self.objective) is not None:
            raise ValueError("a property is learned by basinet finetune, with from=scratch if nothing came before")
        _check_sources(self.data)
        _check_plugin(self.plugin, self.plugin_options)


@settings
class ReplayConfig:
    """Minima beside the data of fine-tuning, so that a model remembers them. Their labels are not used."""

    data: Data
    """The store, or a file of molecules; or a list of them, as for pre-training. Only minima are drawn."""
    every: Count = 1
    """Minima come with every n-th batch."""
    batch_size: Count = 8
    """Minima in such a batch, over all processes together."""
    mixing_temperature: Temperature = 2.0
    """Temperature of drawing from several sources, as for pre-training."""
    zero_force: Positive = 0.1
    """Weight of the force predicted at the minima, where it must vanish."""
    denoising: NonNegative = 0.0
    """Weight of the force that pulls a noisy minimum back (ET-OREO), for models pre-trained by it; 0: left out."""
    sigma: Positive = 0.04
    """Standard deviation of that noise, Å."""
    temperature: Positive = 298.15
    """Temperature of that force, K; it is kT/sigma² times the displacement."""

    def __post_init__(self) -> None:
        """Check the data."""
        _check_sources(self.data)


@settings
class FinetuneRecipe:
    """Fine-tune a model on labelled conformations, or train one from scratch on them."""

    data: Path
    """A file of molecules or a store."""
    units: UnitsConfig = UnitsConfig()
    """Units and keys of a file."""
    start: Annotated[PathText, Field(alias="from")] = SCRATCH
    """A model file to start from, or scratch."""
    n_train: int | None = None
    """Conformations to train on; null: all that are left."""
    n_validation: int | None = None
    """Conformations for validation; null: a tenth, at least one."""
    n_test: int | None = None
    """Conformations to test on at the end; null: what is left, or a tenth if n_train is null too."""
    split_seed: int = 0
    """Seed of the random split."""
    split: Path | None = None
    """File of a saved split, or name of a published one for data in the order of its source (qm9-110k, qm9-3d-emgp,
    md17-950, md17-9500, md17-mdsim, and those that come with a source: rmd17-01 ...); null: random."""
    model: BackboneConfig = EquivariantTransformerConfig()
    """The network, if it starts from scratch."""
    objective: ObjectiveConfig = EnergyForcesConfig()
    """Objective."""
    plugin: Path | None = None
    """Python file with a function objective() that returns the objective to learn, or with a backbone (model.kind).
    It is executed."""
    plugin_options: dict[str, Any] | None = None
    """Arguments of that function, by name, as plugin_options.NAME=VALUE."""
    references: Literal["fit", "keep", "isolated"] | dict[str, float] = "fit"
    """Reference energies of the elements. fit: to the energies, or to the residuals of a loaded model; keep: those of
    the loaded model; isolated: those of isolated atoms in the data, which are never trained on; or eV by element, as
    {H: -13.6, C: -1029.9}."""
    reference_ridge: NonNegative = 0.0
    """Ridge penalty on the change of the reference energies of a loaded model, for few labels of the level it was
    trained on. 0: the solution of least norm where the data leaves a choice."""
    freeze: Annotated[int, Ge(0)] | Literal["backbone"] = 0
    """Frozen part of the loaded model. n: the embedding and the first n layers; backbone: all but heads; 0: nothing."""
    noise_statistics: Literal["keep", "reset"] = "keep"
    """Statistics of the noise in the loaded model, if noise is learned further. keep, as published: smaller noise is
    divided by the old size, so that from 0.04 to 0.005 Å the loss of noise starts 64 times smaller; reset: discard."""
    replay: ReplayConfig | None = None
    """Minima to train on beside the data; null: none."""
    select_by: Literal["loss", "stability"] = "loss"
    """Criterion for the best checkpoint. loss: the lowest validation loss; stability: the longest mean time for which
    short dynamics keep molecules whole, ties broken by the loss."""
    stability: StabilityConfig = StabilityConfig()
    """Dynamics of select_by=stability."""
    training: TrainingConfig = TrainingConfig(
        n_steps=2000,
        batch_size=8,
        validate_every=100,
        save_every=200,
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=50, ema_decay=0.99),
    )
    """Length, batches, optimiser."""
    launch: LaunchConfig = LaunchConfig()
    """Processes and kernels."""

    def __post_init__(self) -> None:
        """Check the options that depend on each other."""
        is_fresh = self.start == SCRATCH
        if is_fresh and (self.references == "keep" or self.reference_ridge or self.freeze):
            raise ValueError(
                "references=keep, reference_ridge and freeze are for a loaded model; name it with from=MODEL"
            )
        if self.reference_ridge and self.references != "fit":
            raise ValueError(f"reference_ridge={self.reference_ridge} needs references=fit, got {self.references}")
        if property_settings(self.objective) is not None and self.references != "fit":
            raise ValueError(f"references={self.references} is for energies; a property has objective.baseline")
        if property_settings(self.objective) is not None and self.select_by == "stability":
            raise ValueError("select_by=stability needs forces, and a property has none; leave it out")
        _check_plugin(self.plugin, self.plugin_options)


def _check_plugin(plugin: Path | None, options: Mapping[str, Any] | None) -> None:
    if plugin is None and options:
        raise ValueError(f"plugin_options {', '.join(options)} without a plugin; give plugin=FILE.py")


TrainableRecipe = PretrainRecipe | FinetuneRecipe
"""A recipe that makes a run with a directory."""


def load_recipe(kind: type[Recipe], path: Path | None, overrides: Sequence[str], **given: object) -> Recipe:
    """Return a recipe from a YAML file, then ``key=value`` overrides, then values given by name.

    Raises:
        ValueError: the file is no YAML mapping, or an option is unknown or has a value that is not allowed; all
            problems are named at once.
    """
    values = _defaults(kind)
    _merge(values, {} if path is None else read_recipe_file(path))
    changes: dict[str, Any] = {}
    for override in overrides:
        _merge(changes, _read_override(override))
    _merge(values, changes)
    _merge(values, {key: value for key, value in given.items() if value is not None})
    _load_plugin(values.get("plugin"), path)
    where = "recipe" if path is None else str(path)
    return read_settings(kind, values, where)


def _load_plugin(plugin: object, recipe: Path | None) -> None:
    """Make the backbones of a plugin available, for the options of the model to be read.

    The copy in a run directory is preferred: it is what the run began with.
    """
    if isinstance(plugin, str | Path):
        kept = None if recipe is None else recipe.parent / PLUGIN_FILE
        chosen = kept if kept is not None and kept.exists() else Path(plugin)
        if chosen.exists():
            load_plugin(chosen)


def _read_override(override: str) -> dict[str, Any]:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise ValueError(f"expected key=value, got {override!r}; for example training.n_steps=500")
    try:
        change: Any = parse_option(text)
    except ValueError as error:
        raise ValueError(f"{override!r}: {error}") from None
    for part in reversed(name.split(".")):
        change = {part: change}
    return change


def read_recipe_file(path: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
    """Return the options in a recipe file, put over those of the recipe that its ``base`` names.

    A base is a path relative to the recipe, or one of the recipes that come with basinet.

    Args:
        path: the recipe.
        above: the recipes that name it as their base.
    """
    if path.resolve() in above:
        raise ValueError(f"{path} is its own base; expected base to name another recipe, or leave it out")
    values = _read_typed(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ValueError(f"{path}: base must name a recipe file, got {base!r}")
    beside, shipped = path.parent / expanded(base), RECIPES / base
    chosen = shipped if not beside.exists() and shipped.exists() else beside
    merged = read_recipe_file(chosen, (*above, path.resolve()))
    _merge(merged, values)
    return merged


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file."""
    return plain(_read_typed(path), lambda _: False)


def _read_typed(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, its values with the texts that were typed."""
    try:
        return parse_text(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no recipe {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def save_recipe(recipe: object, path: Path) -> None:
    """Write a recipe, every option included."""
    write_text(path, yaml.safe_dump(dump_settings(recipe), sort_keys=False))


def _defaults(kind: type[Any]) -> dict[str, Any]:
    """Return the default of every option that has one.

    Options a recipe leaves out keep the default of that recipe, also inside a group of which it sets another option.
    """
    schema = adapter(kind).json_schema(by_alias=True)
    return {name: copy.deepcopy(field["default"]) for name, field in schema["properties"].items() if "default" in field}


def _group(value: Any) -> Any:
    """Return the group of options that was typed as a value; any other value as it is."""
    return value.value if isinstance(value, Typed) and isinstance(value.value, dict) else value


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put changes over values, group by group; a group of another ``kind`` replaces the one that was there."""
    for name, change in changes.items():
        old, change = _group(values.get(name)), _group(change)
        if (
            isinstance(change, Mapping)
            and isinstance(old, dict)
            and ("kind" not in old or change.get("kind", old["kind"]) == old["kind"])
        ):
            _merge(old, change)
        else:
            given = changes[name]
            values[name] = dict(given) if isinstance(given, Mapping) else given
