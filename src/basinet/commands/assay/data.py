"""Prepare the data of a run on a table: compounds, their conformers in a store, and four parts."""

import csv
import dataclasses
import io
from collections import Counter
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Int64

from basinet.commands.assay.recipe import AssayRecipe
from basinet.commands.assay.table import Compounds, read_assay
from basinet.commands.progress import Say, Show
from basinet.data.chemistry.compounds import ConformerTask, conformer_sets, processes_for
from basinet.data.chemistry.scaffolds import random_parts, scaffold_parts, time_parts
from basinet.data.store.manifest import MANIFEST_FILE
from basinet.data.store.shards import read_manifest
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.data.stream.splits import Split
from basinet.files import write_text
from basinet.models.checkpoint import load_model
from basinet.structures import Molecule

CONFORMERS = "conformers"
ROWS_FILE = "rows.csv"
COMPOUNDS_PER_SHARD = 100
PARTS: tuple[str, ...] = ("train", "validation", "calibration", "test")
LABEL = "target"
"""Label whose column has a name that no property can have."""


class AssayData(NamedTuple):
    """Compounds with conformers, in parts."""

    compounds: Compounds
    """Those that have conformers."""
    store: MoleculeStore
    first: Int64[np.ndarray, " _"]
    """Index of the first conformer of each compound, and the number of conformers at the end."""
    parts: dict[str, Int64[np.ndarray, " _"]]
    """Compounds of each of :data:`PARTS`."""

    def conformers_of(self, part: str) -> Int64[np.ndarray, " _"]:
        """Return the conformers of the compounds of a part."""
        ranges = [np.arange(int(self.first[i]), int(self.first[i + 1])) for i in self.parts[part]]
        return np.concatenate(ranges) if ranges else np.zeros(0, dtype=np.int64)

    def split(self) -> Split:
        """Return the split of conformers for training, without the calibration part."""
        return Split(**{part: self.conformers_of(part) for part in ("train", "validation", "test")})


def table_record(recipe: AssayRecipe) -> dict[str, object]:
    """Return the options and inputs that decide the conformers of a run."""
    return {
        "table": sha256(recipe.data.read_bytes()).hexdigest(),
        "target": recipe.target,
        "smiles": recipe.smiles,
        "duplicates": recipe.duplicates,
        "fragments": recipe.fragments,
        "conformers": recipe.conformers,
        "conformer_seed": recipe.conformer_seed,
    }


def read_compounds(recipe: AssayRecipe, say: Say) -> Compounds:
    """Read the table of a recipe and describe it."""
    found = read_assay(
        recipe.data,
        recipe.target,
        recipe.smiles,
        time=recipe.time,
        duplicates=recipe.duplicates,
        fragments=recipe.fragments,
    )
    found = _known_elements(recipe, found)
    say(f"{recipe.data}: {len(found.rows)} rows, {len(found.smiles)} compounds with {recipe.target}")
    dropped = found.dropped()
    if dropped:
        counts = ", ".join(f"{count} ({reason})" for reason, count in dropped.most_common())
        say(f"{sum(dropped.values())} rows are not used: {counts}")
    if found.n_repeated:
        line = f"{found.n_repeated} compounds have several rows"
        if found.n_differing:
            rule = "they are left out" if recipe.duplicates == "drop" else f"their {recipe.duplicates} is taken"
            name, difference = found.largest_difference
            line += f"; the labels of {found.n_differing} differ, most by {difference:.3g} ({name}): {rule}"
        say(line)
    return found


def _known_elements(recipe: AssayRecipe, found: Compounds) -> Compounds:
    """Refuse, or drop, compounds with elements unknown to the loaded model."""
    if recipe.start == "scratch":
        return found
    known = load_model(Path(recipe.start)).model.scope.elements
    strange: dict[str, list[str]] = {}
    if known:
        for smiles in found.smiles:
            if unknown := sorted(_elements(smiles) - known):
                strange[smiles] = [chemical_symbols[z] for z in unknown]
    if not strange:
        return found
    counts = Counter(symbol for symbols in strange.values() for symbol in symbols)
    listed = ", ".join(f"{symbol} in {count}" for symbol, count in counts.most_common())
    if recipe.unknown_elements == "error" or len(strange) == len(found.smiles):
        raise ValueError(
            f"{recipe.start} does not know some elements of {len(strange)} of {len(found.smiles)} compounds "
            f"({listed}); leave these out (unknown_elements=drop), or start from a model that knows them"
        )
    for row in found.rows:
        if row.compound in strange:
            row.reason = f"the model does not know {' '.join(strange[row.compound])}"
    return found.select([i for i, smiles in enumerate(found.smiles) if smiles not in strange])


def _elements(smiles: str) -> set[int]:
    from basinet.data.chemistry.conformers import parse_smiles

    atoms = list(parse_smiles(smiles).GetAtoms())
    hydrogens = {1} if any(atom.GetTotalNumHs() for atom in atoms) else set[int]()
    return {atom.GetAtomicNum() for atom in atoms} | hydrogens


def prepare(recipe: AssayRecipe, out: Path, label: str, say: Say, show: Show) -> AssayData:
    """Return compounds with conformers, in parts; conformers made before an interruption are kept.

    Raises:
        ValueError: there is too little, or a part would be empty.
    """
    compounds = read_compounds(recipe, say)
    store = _conformer_store(recipe, compounds, out / CONFORMERS, label, show)
    place = {smiles: i for i, smiles in enumerate(compounds.smiles)}
    owner = np.array([place[smiles] for smiles in store.smiles], dtype=np.int64)
    kept = np.unique(owner)
    _note_failures(compounds, store, say)
    if not len(kept):
        raise ValueError(f"{recipe.data}: no compound has a conformer; {out / CONFORMERS} says why")
    first = np.r_[np.searchsorted(owner, kept), len(owner)].astype(np.int64)
    compounds = compounds.select(kept.tolist())
    say(f"{len(store)} conformers of {len(kept)} compounds")
    parts = split_compounds(recipe, compounds)
    sizes = ", ".join(f"{len(parts[part])} {part}" for part in PARTS)
    say(f"{recipe.split} split of compounds: {sizes}")
    write_text(out / ROWS_FILE, describe_rows(compounds, parts))
    return AssayData(compounds, store, first, parts)


def _conformer_store(recipe: AssayRecipe, compounds: Compounds, path: Path, label: str, show: Show) -> MoleculeStore:
    settings = table_record(recipe) | {"compounds": sha256("\n".join(compounds.smiles).encode()).hexdigest()}
    if (path / MANIFEST_FILE).exists() and (manifest := read_manifest(path)).complete:
        if manifest.settings != settings:
            raise ValueError(f"{path} was made from another table or with other options; choose another --out")
        return MoleculeStore.open(path)
    writer = StoreWriter.open(path, level_of_theory="", source=str(recipe.data), settings=settings, units={label: "1"})
    total = len(compounds.smiles)
    done = min(total, writer.n_shards * COMPOUNDS_PER_SHARD)
    tasks = [ConformerTask(s, recipe.conformers, recipe.conformer_seed) for s in compounds.smiles[done:]]
    sets = conformer_sets(tasks, processes_for(len(tasks), recipe.processes))
    labels = iter(compounds.labels[done:].tolist())
    named = zip(compounds.smiles[done:], labels, sets, strict=True)
    while shard := list(islice(named, COMPOUNDS_PER_SHARD)):
        molecules: list[Molecule] = []
        skipped: Counter[str] = Counter()
        for smiles, value, found in shard:
            if isinstance(found, str):
                skipped[f"{smiles}: {found}"] += 1
                continue
            molecules += [dataclasses.replace(m, smiles=smiles, labels={label: value}) for m in found]
        writer.write_shard(molecules, skipped)
        done += len(shard)
        show(done, total, f"{writer.manifest.n_molecules} conformers")
    return writer.finish()


def _note_failures(compounds: Compounds, store: MoleculeStore, say: Say) -> None:
    """Note the reason in the rows of compounds without conformers, and report the counts."""
    reasons = dict(entry.rsplit(": ", 1) for entry in store.manifest.skipped)
    for row in compounds.rows:
        if not row.reason and row.compound in reasons:
            row.reason = f"conformers: {reasons[row.compound]}"
    if reasons:
        counts = ", ".join(f"{count} ({reason})" for reason, count in Counter(reasons.values()).most_common())
        say(f"{len(reasons)} compounds have no conformer: {counts}")


def split_compounds(recipe: AssayRecipe, compounds: Compounds) -> dict[str, Int64[np.ndarray, " _"]]:
    """Return the compounds of each part.

    Raises:
        ValueError: a part is empty, or little is left to train on.
    """
    match recipe.split:
        case "scaffold":
            found = scaffold_parts(compounds.smiles, recipe.fractions)
        case "random":
            found = random_parts(len(compounds.smiles), recipe.fractions, recipe.split_seed)
        case "time":
            found = time_parts(compounds.times, recipe.fractions)
    parts = dict(zip(PARTS, found, strict=True))
    wanted = dict(zip(PARTS, recipe.fractions, strict=True))
    empty = [part for part in PARTS if wanted[part] > 0 and len(parts[part]) == 0]
    n = len(compounds.smiles)
    if empty or len(parts["train"]) < wanted["train"] * n / 2:
        sizes = ", ".join(f"{len(parts[part])} {part}" for part in PARTS)
        raise ValueError(
            f"the {recipe.split} split of {n} compounds is {sizes}; expected the fractions "
            f"{', '.join(f'{wanted[part]:.2g}' for part in PARTS)}; "
            + ("scaffolds are too few or too unequal: use split=random" if recipe.split == "scaffold" else "more rows")
            + ", or other fractions (calibration_fraction=0 test_fraction=0 leave parts out)"
        )
    return parts


def describe_rows(compounds: Compounds, parts: dict[str, Int64[np.ndarray, " _"]]) -> str:
    """Return a table with the use of every row."""
    part_of = {compounds.smiles[i]: part for part, members in parts.items() for i in members}
    label_of = dict(zip(compounds.smiles, compounds.labels.tolist(), strict=True))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "smiles", "compound", "label", "part", "status", "reason"])
    for row in compounds.rows:
        used = not row.reason
        writer.writerow(
            [
                row.number,
                row.smiles,
                row.compound,
                repr(label_of[row.compound]) if used else "",
                part_of[row.compound] if used else "",
                "used" if used else "dropped",
                row.reason,
            ]
        )
    return text.getvalue()
