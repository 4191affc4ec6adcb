"""The commands that make molecular data and look at it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from basinet.cli.arguments import (
    BuildCommand,
    DataFile,
    EnergyKey,
    EnergyUnit,
    ForcesKey,
    GenerateCommand,
    LengthUnit,
    RecipeArguments,
)
from basinet.cli.fetching import ensure_fetched, fetch_shown, show_fetched
from basinet.terminal import findings, progress, say, table

EXIT_FAULT = 1
"""Data with a fault."""

data = typer.Typer(help="Make molecular data and look at it.", no_args_is_help=True)


@data.command(cls=GenerateCommand)
def generate(
    out: Annotated[Path, typer.Argument(help="Store to make (or to resume).")],
    options: Annotated[list[str] | None, typer.Argument(help="A recipe (*.yaml) and key=value options.")] = None,
    shard: Annotated[str | None, typer.Option(help="Make the i-th of n parts only, as i/n; then data merge.")] = None,
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
    with progress("molecules") as show:

        def watch(p: Any) -> None:
            show(p.done, p.total, f"{p.frames} frames, {p.failed} molecules failed")

        store = run(config, out, watch, part)
    _show_store(out, store)
    if (out / SKIPPED_FILE).exists():
        say(f"what was left out or failed is listed in {out / SKIPPED_FILE}")


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
    with progress("shards") as show:
        store = run(shards, out, lambda done, total: show(done, total))
    _show_store(out, store)


@data.command(cls=BuildCommand)
def build(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="IN... OUT", help="Files and stores to read, the store to make (or to resume), key=value options."
        ),
    ],
) -> None:
    """Read files of any known format, and stores, into one store."""
    from basinet.commands.build import BuildRecipe
    from basinet.commands.build import build as run
    from basinet.commands.recipe import load_recipe
    from basinet.data.files.build import SKIPPED_FILE

    given = RecipeArguments.parse(arguments)
    if len(given.data) < 2:
        raise ValueError(f"expected files to read and then the store to make, got {' '.join(arguments)}")
    *files, out = given.data
    recipe = load_recipe(BuildRecipe, given.recipe, given.overrides, data=list(map(str, files)))
    ensure_fetched(files)
    with progress("molecules") as show:
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
    from basinet.data.sources.listing import HEADER, rows

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


@data.command()
def info(
    store: DataFile,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    perceive_bonds: Annotated[
        bool, typer.Option("--perceive-bonds/--file-bonds", help="Find bonds where there are none on record.")
    ] = False,
) -> None:
    """Say what is in a store or a file, and whether its energies and forces fit each other."""
    from basinet.data.chemistry import perception
    from basinet.data.reading import Reading, load_store, locate

    ensure_fetched([store])
    reading = Reading(energy_unit=energy_unit, length_unit=length_unit, energy_key=energy_key, forces_key=forces_key)
    found, report = load_store(store, reading)
    lines = [str(report)] if locate(store).is_file() else []
    if perceive_bonds:
        with progress("bonds") as show:
            found, bonds = perception.perceive_bonds(found, on_progress=show)
        lines.append(str(bonds))
    _show_store(store, found)
    for line in lines:
        say(line)


@data.command()
def check(
    molecules: DataFile,
    against: Annotated[Path | None, typer.Option(help="Other data that must not hold the same conformations.")] = None,
    page: Annotated[Path | None, typer.Option(help="Page with figures to write: a .html file or a directory.")] = None,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
) -> None:
    """Look for faults in data: units, signs, copies, outliers. Exit code 1 if there is a fault."""
    from basinet.commands.check import check_data
    from basinet.data.reading import Reading

    ensure_fetched([molecules] if against is None else [molecules, against])
    reading = Reading(energy_unit=energy_unit, length_unit=length_unit, energy_key=energy_key, forces_key=forces_key)
    found = check_data(molecules, against, reading)
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
