"""The commands that make, fetch and examine molecular data."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from basinet.cli.arguments import READING, DataFile
from basinet.cli.recipes import RecipeArguments, RecipeCommand
from basinet.cli.settings import command_with, from_options
from basinet.terminal import Show, findings, progress, say, table

if TYPE_CHECKING:
    from basinet.data.sources.collection import PublicDataset
    from basinet.data.sources.fetch import Fetched

EXIT_FAULT = 1
"""Data with a fault."""

data = typer.Typer(help="Make, fetch and examine molecular data.", no_args_is_help=True)


@data.command(cls=RecipeCommand)
def generate(
    out: Annotated[Path, typer.Argument(help="Store to make or to resume.")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="A recipe (*.yaml) and options as key=value.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Make part i of n only, as i/n; data merge joins the parts.")
    ] = None,
) -> None:
    """Make labelled data from SMILES: conformers, minima and dynamics, with energies and forces."""
    from basinet.commands.recipe import load_recipe
    from basinet.data.generation.configurations import GenerateConfig
    from basinet.data.generation.generate import generate as run
    from basinet.data.generation.parts import SKIPPED_FILE, Part

    given = RecipeArguments.parse(options or [])
    if given.data:
        raise ValueError(f"expected one store to make and key=value options, got also {given.data[0]}")
    config = load_recipe(GenerateConfig, given.recipe, given.overrides)
    part = None if shard is None else Part.parse(shard)
    with progress("generating", "molecules") as show:

        def watch(p: Any) -> None:
            show(p.done, p.total, f"{p.frames} frames  {p.failed} failed")

        store = run(config, out, watch, part)
    _show_store(out, store)
    if (out / SKIPPED_FILE).exists():
        say(f"molecules skipped or failed are listed in {out / SKIPPED_FILE}")


@data.command()
def merge(
    stores: Annotated[
        list[Path], typer.Argument(metavar="IN... OUT", help="All shards of one generation, and the store to make.")
    ],
) -> None:
    """Join the shards that data generate --shard has made into one store."""
    from basinet.data.generation.merge import merge as run

    if len(stores) < 2:
        raise ValueError(f"expected shards and then the store to make, got {' '.join(map(str, stores))}")
    *shards, out = stores
    with progress("merging", "shards") as show:
        store = run(shards, out, lambda done, total: show(done, total))
    _show_store(out, store)


@data.command(cls=RecipeCommand)
def build(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="IN... OUT KEY=VALUE...",
            help="Files and stores to read, the store to make or to resume, and options as key=value.",
        ),
    ],
) -> None:
    """Read files of any known format, and stores, into one store."""
    from basinet.commands.build import BuildRecipe
    from basinet.commands.build import build as run
    from basinet.commands.recipe import load_recipe
    from basinet.data.files.build import SKIPPED_FILE

    given = RecipeArguments.parse(arguments).with_output(arguments[-1], BuildRecipe)
    if len(given.data) < 2:
        raise ValueError(f"expected files to read and then the store to make, got {' '.join(arguments)}")
    *files, out = given.data
    recipe = load_recipe(BuildRecipe, given.recipe, given.overrides, data=list(map(str, files)))
    ensure_fetched(files)
    with progress("reading", "molecules") as show:
        built = run(recipe, out, lambda done, name: show(done, None, name))
    _show_store(out, built.store)
    for report in built.reports:
        say(str(report))
    if any(report.skipped for report in built.reports):
        say(f"the records that were skipped are listed in {out / SKIPPED_FILE}")


@data.command()
def sources() -> None:
    """List the public data sets that can be named in place of a file."""
    from basinet.data.sources.cache import DIRECTORY_VARIABLE, cache_directory
    from basinet.data.sources.catalogue import HEADER, rows

    for name, *about in rows():
        table(name, dict(zip(HEADER[1:], about, strict=True)))
    say(f"files and stores are kept in {cache_directory()} ({DIRECTORY_VARIABLE}=... chooses another directory)")


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Such as qm9 or rmd17:aspirin; see basinet data sources.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OUT]", help="Store to make (without it, one in the cache), and key=value options."),
    ] = None,
) -> None:
    """Download a public data set, verify it, and make a store of it. Options: limit=N, conformers=N (geom-qm9)."""
    from basinet.commands.recipe import load_recipe
    from basinet.data.sources.collection import FetchConfig
    from basinet.data.sources.names import parse_name

    dataset = parse_name(name)
    given = RecipeArguments.parse(arguments or [])
    config = load_recipe(FetchConfig, given.recipe, given.overrides)
    out = None if given.one_data is None else Path(given.one_data)
    fetched = fetch_shown(dataset, out, config)
    _show_store(fetched.path, fetched.store)
    show_fetched(dataset, fetched)


@data.command(cls=command_with(READING))
def info(
    store: DataFile,
    perceive_bonds: Annotated[
        bool, typer.Option("--perceive-bonds/--file-bonds", help="Perceive bonds where the data has none.")
    ] = False,
) -> None:
    """Summarise a store or a file, and compare the units and signs of its energies and forces."""
    from basinet.data.chemistry import perception
    from basinet.data.readers import load_store, locate

    ensure_fetched([store])
    found, report = load_store(store, from_options(READING).reading())
    lines = [str(report)] if locate(store).is_file() else []
    if perceive_bonds:
        with progress("perceiving bonds", "molecules") as show:
            found, bonds = perception.perceive_bonds(found, on_progress=show)
        lines.append(str(bonds))
    _show_store(store, found)
    for line in lines:
        say(line)


@data.command(cls=command_with(READING))
def check(
    molecules: DataFile,
    against: Annotated[Path | None, typer.Option(help="Other data that must not have conformations in common.")] = None,
    page: Annotated[Path | None, typer.Option(help="Page with figures to write: a .html file or a directory.")] = None,
) -> None:
    """Look for faults in data: units, signs, copies, outliers. Exit code 1 if there is a fault."""
    from basinet.commands.check import check_data

    ensure_fetched([molecules] if against is None else [molecules, against])
    found = check_data(molecules, against, from_options(READING).reading())
    findings(str(molecules), ((f.check, f.verdict, f.evidence, f.fix) for f in found.findings))
    if page is not None:
        from basinet.evaluation.data_page import write_data_page

        say(f"page: {write_data_page(found, page)}")
    say(f"verdict: {found.verdict}")
    if found.verdict == "fault":
        raise typer.Exit(EXIT_FAULT)


def _show_store(path: Path, store: Any) -> None:
    from basinet.data.doctor.check import check_consistency

    manifest = store.manifest
    sizes = store.atoms_per_molecule
    check = check_consistency(store)
    rows = {
        "molecules": f"{len(store):,} conformations of {len(set(store.smiles) - {''}) or 'unknown'} compounds",
        "atoms": f"{int(sizes.sum()):,}; {sizes.min()} to {sizes.max()} a molecule" if len(sizes) else "none",
        "elements": ", ".join(f"{symbol} {count:,}" for symbol, count in manifest.elements.items()),
        "labels": ", ".join(f"{name} of {count:,}" for name, count in store.label_counts.items()) or "none",
        "bonds": f"of {store.bond_counts['bonds']:,}, with bond orders of {store.bond_counts['bond_orders']:,}",
        "level of theory": manifest.level_of_theory or "not on record",
        "source": manifest.source or "not on record",
        **({"shard": f"{shard}; data merge joins all of them"} if (shard := manifest.settings.get("shard")) else {}),
        "skipped": ", ".join(f"{count:,} {reason}" for reason, count in manifest.skipped.items()) or "nothing",
        "units and signs": f"{check.verdict}: {check.reason}",
        "fingerprint": store.fingerprint,
    }
    table(str(path), rows)


def ensure_fetched(paths: Iterable[str | Path]) -> None:
    """Fetch the public data sets among the paths that are not in the cache, and print their citations."""
    from basinet.data.sources.fetch import is_finished, store_place
    from basinet.data.sources.names import dataset_named

    for path in paths:
        dataset = dataset_named(str(path))
        if dataset is not None and not is_finished(store_place(dataset)):
            show_fetched(dataset, fetch_shown(dataset))


def fetch_shown(dataset: "PublicDataset", out: Path | None = None, config: Any = None) -> "Fetched":
    """Fetch a data set and show megabytes, then molecules."""
    from basinet.data.sources.fetch import fetch

    with ExitStack() as stack:
        shown: dict[str, Show] = {}

        def line(title: str, unit: str) -> Show:
            if title not in shown:
                shown.clear()
                stack.close()
                shown[title] = stack.enter_context(progress(title, unit))
            return shown[title]

        def show_bytes(done: int, total: int | None, name: str) -> None:
            line(f"downloading {name}", "MB")(done // 10**6, None if total is None else max(total // 10**6, 1))

        def show_molecules(done: int, name: str) -> None:
            line(f"reading {name}", "molecules")(done, None)

        return fetch(dataset, out, config, on_bytes=show_bytes, on_molecules=show_molecules)


def show_fetched(dataset: "PublicDataset", fetched: "Fetched") -> None:
    """Print what was read, notes, and the citation."""
    for report in fetched.reports:
        say(str(report))
    for note in fetched.notes:
        say(note)
    say(f"{dataset.name} is in {fetched.path}; please cite {dataset.collection.citation}")
