"""Train, compare, simulate and certify from Python: the commands, with their options as keyword arguments."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from basinet.commands.assay.finetune import AssayResult, finetune_assay
from basinet.commands.assay.recipe import AssayRecipe
from basinet.commands.certify import Certificate
from basinet.commands.certify import certify as certify_file
from basinet.commands.compare import CompareRecipe, Comparison
from basinet.commands.compare import compare as run_comparison
from basinet.commands.recipe import RECIPES, FinetuneRecipe, PretrainRecipe, load_recipe
from basinet.commands.simulate.report import SimulationSummary, summarise
from basinet.commands.simulate.settings import SimulateConfig
from basinet.commands.simulate.simulate import simulate_file
from basinet.commands.train.finetune import FinetuneResult
from basinet.commands.train.finetune import finetune as run_finetuning
from basinet.commands.train.pretrain import PretrainResult
from basinet.commands.train.pretrain import pretrain as run_pretraining
from basinet.config import dump_settings, read_settings
from basinet.data.store.writer import StoreWriter
from basinet.evaluation.certificate import Thresholds
from basinet.interfaces.molecules import as_molecules, is_file

Say = Callable[[str], None]
Recipe = TypeVar("Recipe")


def _silent(*_: object) -> None:
    """Say nothing."""


def pretrain(
    data: Any,
    out: str | Path,
    *,
    recipe: str | Path | None = None,
    resume: bool = False,
    say: Say = _silent,
    **options: Any,
) -> PretrainResult:
    """Pre-train a model on many molecules, as ``basinet pretrain`` does.

    Args:
        data: a file or store, a list of these, or molecules (see :func:`basinet.predict`), which are kept as a store
            beside the run, ``OUT.data``.
        out: run directory to make, or to resume.
        recipe: a recipe file, or the name of one that comes with basinet.
        resume: continue the run in ``out``, bit for bit.
        say: called with lines of progress, such as ``print``.
        **options: options of :class:`~basinet.commands.recipe.PretrainRecipe` by name, nested
            (``training={"n_steps": 100}``) or dotted (``**{"training.n_steps": 100}``). ``start`` is the option
            ``from``.

    Returns:
        The path of the model (``.model``), and the course of the training (``.fit``).

    Raises:
        ValueError: an option is unknown or has a value that is not allowed, the data does not have what the objective
            learns, or ``out`` holds another run.
    """
    out = Path(out)
    given = {**_options(options), "data": _data(data, out, resume)}
    return run_pretraining(load_recipe(PretrainRecipe, _path(recipe), [], **given), out, resume=resume, say=say)


def finetune(
    data: Any,
    out: str | Path,
    *,
    start: str | Path | None = None,
    recipe: str | Path | None = None,
    resume: bool = False,
    say: Say = _silent,
    **options: Any,
) -> FinetuneResult | AssayResult:
    """Fine-tune a model on labelled molecules, or train one from scratch, as ``basinet finetune`` does.

    Args:
        data: a file or store; molecules with labels (see :func:`basinet.evaluate`), which are kept as a store beside
            the run, ``OUT.data``; or with ``target`` a table of SMILES.
        out: run directory to make, or to resume.
        start: the model file to start from; ``None``: that of the recipe, or fresh weights.
        recipe: a recipe file, or the name of one that comes with basinet.
        resume: continue the run in ``out``, bit for bit.
        say: called with lines of progress, such as ``print``.
        **options: options of :class:`~basinet.commands.recipe.FinetuneRecipe`, as for :func:`pretrain`; with
            ``target="COLUMN"`` those of :class:`~basinet.commands.assay.recipe.AssayRecipe`.

    Returns:
        The path of the model (``.model``), and its errors on the test set (``.test``).

    Raises:
        ValueError: as for :func:`pretrain`, or the model does not fit the data.
    """
    out = Path(out)
    given = {**_options(options), "data": _data(data, out, resume)}
    if start is not None:
        given["from"] = str(start)
    if "target" in given:
        return finetune_assay(load_recipe(AssayRecipe, _path(recipe), [], **given), out, resume=resume, say=say)
    return run_finetuning(load_recipe(FinetuneRecipe, _path(recipe), [], **given), out, resume=resume, say=say)


def compare(
    data: Any, out: str | Path, *, start: Any, resume: bool = False, say: Say = _silent, **options: Any
) -> Comparison:
    """Fine-tune from several starts with few and many labels, and test all alike, as ``basinet compare`` does.

    Args:
        data: as for :func:`finetune`.
        out: directory to make, or to resume.
        start: two or more of ``"scratch"`` and model files.
        resume: continue the comparison in ``out``.
        say: called with lines of progress, such as ``print``.
        **options: options of :class:`~basinet.commands.compare.CompareRecipe`, such as ``sizes=[50, 100]``.

    Returns:
        The learning curves (``.curves``), and the sizes of the validation and the test set.
    """
    out = Path(out)
    given = {**_options(options), "data": _data(data, out, resume), "from": [str(one) for one in start]}
    recipe = load_recipe(CompareRecipe, None, [], **given)
    return run_comparison(recipe, out, resume=resume, watch=_silent, say=say)


def simulate(
    model: str | Path,
    molecules: Any,
    out: str | Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    say: Say = _silent,
    **options: Any,
) -> SimulationSummary:
    """Run molecular dynamics of many replicas and write a report, as ``basinet simulate`` does.

    Args:
        model: a model file of energies and forces.
        molecules: what to start from: a file, or molecules (see :func:`basinet.predict`), which are kept as a store
            beside the simulation, ``OUT.data``.
        out: directory to make, or to resume.
        device: ``"cpu"`` or ``"cuda"``.
        resume: continue the simulation in ``out``; it may be made longer.
        say: called with lines of progress, such as ``print``.
        **options: options of :class:`~basinet.commands.simulate.settings.SimulateConfig`, such as ``picoseconds=10``,
            ``temperature=300``, ``replicas=16``.

    Returns:
        What became of each replica (``.replicas``, ``.n_failed``), and the report (``.report``).

    Raises:
        ValueError: an option is unknown or has a value that is not allowed, or the start cannot be simulated.
    """
    out = Path(out)
    given = {**_options(options), "model": Path(model), "molecules": _data(molecules, out, resume)}
    config = load_recipe(SimulateConfig, None, [], **given)
    return summarise(simulate_file(config, out, device=device, resume=resume, say=say), out)


def certify(model: str | Path, molecules: str | Path | None = None, **thresholds: float) -> Certificate:
    """Measure what a model promises: symmetries, forces as gradients, smoothness at the cutoff.

    Args:
        model: a model file.
        molecules: a file with molecules to examine it on; ``None``: well-known ones.
        **thresholds: largest errors that pass (:class:`~basinet.evaluation.certificate.Thresholds`).

    Returns:
        The checks (``.checks``), and whether all pass (``.passed``).
    """
    limits = read_settings(Thresholds, thresholds, "thresholds")
    return certify_file(Path(model), None if molecules is None else Path(molecules), thresholds=limits)


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as a recipe has them: dotted names nested, settings as their values, ``start`` as ``from``."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        *groups, last = name.split(".")
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = dump_settings(value) if hasattr(type(value), "__dataclass_fields__") else value
    if "start" in found:
        found["from"] = found.pop("start")
    return found


def _path(recipe: str | Path | None) -> Path | None:
    if recipe is None or Path(recipe).exists() or not (RECIPES / recipe).exists():
        return None if recipe is None else Path(recipe)
    return RECIPES / recipe


def _data(given: Any, out: Path, resume: bool) -> Any:
    """Return the path of data; molecules in memory become a store beside a run, where it can be resumed from."""
    if isinstance(given, list | tuple) and given and all(is_file(one) or isinstance(one, Mapping) for one in given):
        return list(given)
    if is_file(given) or isinstance(given, Mapping):
        return given
    store = out.with_name(f"{out.name}.data")
    if not resume:
        molecules, _ = as_molecules(given)
        writer = StoreWriter.open(store, level_of_theory="", source="Python", settings={})
        writer.write_shard(list(molecules))
        writer.finish()
    return store
