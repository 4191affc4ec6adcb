"""Join several models in one file, which predicts their mean and spread."""

from collections.abc import Sequence
from pathlib import Path

from basinet.commands.certify import file_hash
from basinet.config import dump_settings
from basinet.models.checkpoint import EnsembleFile, load_ensemble, save_model
from basinet.models.committee import Committee
from basinet.models.model import Model


def join_models(files: Sequence[Path], out: Path) -> Committee:
    """Write the models of several files as one ensemble, and return it.

    They must be one network with different weights: the same backbone, outputs, corrections and level of theory,
    trained with different seeds or on different parts of the data. The scope of the ensemble is common to all members.
    Ensembles among the files bring all their members; calibrations of intervals are not kept.

    Raises:
        FileExistsError: ``out`` exists.
        ValueError: fewer than two models, one twice, or models that are not alike.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another path for the ensemble")
    found = [load_ensemble(file) for file in files]
    hashes = [file_hash(file) for file in files]
    if len(set(hashes)) < len(hashes):
        twice = next(file for i, file in enumerate(files) if hashes[i] in hashes[:i])
        raise ValueError(f"{twice} is given twice; members of an ensemble differ in their weights")
    for file, one in zip(files[1:], found[1:], strict=True):
        _require_alike(files[0], found[0], file, one)
    members = [member for one in found for member in one.members]
    committee = Committee(members)
    first, *further = members
    first.scope = committee.scope
    metadata = {
        "members": [
            {"file": str(file), "sha256": digest, "metadata": dict(one.metadata)}
            for file, digest, one in zip(files, hashes, found, strict=True)
        ]
    }
    save_model(first, out, found[0].backbone, metadata, further=further)
    return committee


def _require_alike(first_file: Path, first: EnsembleFile, file: Path, other: EnsembleFile) -> None:
    ours, theirs = dump_settings(first.backbone), dump_settings(other.backbone)
    if ours != theirs:
        keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        differences = ", ".join(f"{key} {ours.get(key)} and {theirs.get(key)}" for key in keys)
        raise ValueError(f"{first_file} and {file} are different networks ({differences}); one file holds one network")
    if _corrections(first.members[0]) != _corrections(other.members[0]):
        raise ValueError(f"{first_file} and {file} have different corrections")


def _corrections(model: Model) -> list[object]:
    return [dump_settings(correction.config) for correction in model.named_corrections()]
