"""Write the embeddings of the molecules, or of all atoms, of a file."""

import csv
import io
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32

from basinet.backbones.base import with_kernels
from basinet.commands.answer.load import in_pieces
from basinet.commands.answer.records import Record, TableOptions
from basinet.commands.answer.stream import (
    Done,
    Journal,
    OutsidePolicy,
    answer_records,
    batch_of,
    fingerprint_of,
    locate_input,
)
from basinet.commands.progress import Say, Show, hidden, silent
from basinet.devices import resolve_device
from basinet.files import replacing
from basinet.models.checkpoint import load_ensemble, read_backbone
from basinet.models.committee import mean_over_conformers
from basinet.models.model import EmbeddingLevel, Model, Pooling
from basinet.structures.batch import unbatch


@runtime_checkable
class Sink(Protocol):
    """A file to write to, or one in an archive."""

    def write(self, data: bytes, /) -> object:
        """Add to it."""
        ...


FEATURES, INDEX, OFFSETS = "features", "index", "offsets"
INDEX_COLUMNS = ("row", "name", "smiles", "n_atoms", "status", "reason")
COPIED_BYTES = 1 << 20
Row = tuple[Record, "Float32[np.ndarray, '_ n'] | None", str]


def index_path(out: Path) -> Path:
    """Return the path of the index: that of ``mols.npy`` is ``mols.npy.index.csv``."""
    return out.with_name(f"{out.name}.index.csv")


def embed_file(
    model_file: Path,
    data: Path,
    out: Path,
    *,
    level: EmbeddingLevel = "molecule",
    pooling: Pooling = "mean",
    member: int = 1,
    table: TableOptions | None = None,
    device: str = "cpu",
    outside_scope: OutsidePolicy = "error",
    show: Show = hidden,
    say: Say = silent,
) -> Done:
    """Write the embeddings of all records of a file, and an index with a row for each.

    Molecules: an array [n_records, n_features] (.npy), NaN where the index says "failed". Atoms: an archive (.npz) with
    ``features`` [n_atoms of all, n_features] and ``offsets`` [n_records + 1]; a failed record has no atoms. Embeddings
    are averaged over conformers; of an ensemble, they are those of one ``member`` (from 1). A record unlike those in
    training fails, or (``outside_scope="warn"``) has the status "outside". An interrupted run is resumed by the same
    call.

    Raises:
        ValueError: the suffix does not fit, there is no such member, no molecule, or the output is the input.
    """
    table = table or TableOptions()
    suffix = {"molecule": ".npy", "atom": ".npz"}[level]
    if out.suffix != suffix:
        raise ValueError(f"{out}: embeddings of a {level} are written as {suffix}, got {out.suffix or 'no suffix'}")
    if level == "atom" and table.n_conformers != 1:
        raise ValueError(f"atoms have places in one conformer; got conformers={table.n_conformers}, expected 1")
    data = locate_input(data, out, index_path(out))
    device = resolve_device(device)
    model = _member(model_file, member, device, say)
    n_features = model.backbone.n_scalar
    options = {
        "level": level,
        "pooling": pooling,
        "member": member,
        "outside": outside_scope,
        "table": table._replace(processes=None),
    }
    names = [FEATURES, INDEX] + ([OFFSETS] if level == "atom" else [])
    journal = Journal(out, names, fingerprint_of([model_file, data], options))

    def compute(chunk: Sequence[Record]) -> list[Float32[np.ndarray, "_ n"]]:
        return embed_records(model, chunk, level, pooling, device)

    def write(rows: Sequence[Row]) -> dict[str, bytes]:
        return _pieces(rows, level, n_features)

    done = answer_records(
        data,
        compute,
        model.scope,
        journal,
        write,
        table=table,
        needs_bonds=read_backbone(model_file).needs_bonds,
        outside_scope=outside_scope,
        show=show,
        say=say,
    )
    _finish(journal, out, level, n_features)
    return done


def _member(model_file: Path, number: int, device: str, say: Say) -> Model:
    """Return a member of a model file, the first being 1, in evaluation mode."""
    members = load_ensemble(model_file).members
    n = len(members)
    if not 1 <= number <= n:
        holds = "one model" if n == 1 else f"members 1 to {n}"
        raise ValueError(f"{model_file} holds {holds}, asked for member {number}; choose another --member")
    if n > 1:
        say(f"these are the features of member {number} of {n} (--member)")
    return with_kernels(members[number - 1].to(device).eval())


@torch.no_grad()
def embed_records(
    model: Model, records: Sequence[Record], level: EmbeddingLevel, pooling: Pooling, device: str
) -> list[Float32[np.ndarray, "_ n"]]:
    """Return one row for each record, the mean over its conformers; or a row for each of its atoms."""
    batch, owner = batch_of(records)
    batch = batch.to(device)
    found = in_pieces(lambda part: {FEATURES: model.embed(part, level, pooling)}, batch)[FEATURES]
    if level == "atom":
        return [rows.float().cpu().numpy() for rows in unbatch(found, batch)]
    means = mean_over_conformers(found.double().cpu().T, owner, len(records)).T
    return [row[None].float().numpy() for row in means]


def _pieces(rows: Sequence[Row], level: EmbeddingLevel, n_features: int) -> dict[str, bytes]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    blocks: list[np.ndarray] = []
    for record, found, reason in rows:
        if found is not None and not np.isfinite(found).all():
            found, reason = None, "the embedding is not finite"
        status = "failed" if found is None else "outside" if reason else "ok"
        if found is None:
            found = np.full((1 if level == "molecule" else 0, n_features), np.nan, dtype=np.float32)
        n_atoms = record.conformers[0].n_atoms if record.conformers else 0
        writer.writerow([record.number, record.name, record.smiles, n_atoms, status, reason])
        blocks.append(np.ascontiguousarray(found, dtype="<f4"))
    pieces = {FEATURES: b"".join(b.tobytes() for b in blocks), INDEX: text.getvalue().encode()}
    counts = np.array([len(b) for b in blocks], dtype="<i8")
    return pieces | ({OFFSETS: counts.tobytes()} if level == "atom" else {})


def _finish(journal: Journal, out: Path, level: EmbeddingLevel, n_features: int) -> None:
    """Put the files together, a piece at a time, and move them into place."""
    header = ",".join(INDEX_COLUMNS) + "\n"
    with replacing(index_path(out)) as temporary, open(temporary, "wb") as file:
        file.write(header.encode())
        _copy(journal.path(INDEX), file)
    n_rows = journal.path(FEATURES).stat().st_size // (4 * n_features)
    with replacing(out) as temporary:
        if level == "molecule":
            with open(temporary, "wb") as file:
                _write_header(file, "<f4", (n_rows, n_features))
                _copy(journal.path(FEATURES), file)
        else:
            counts = np.fromfile(journal.path(OFFSETS), dtype="<i8")
            with zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
                with archive.open(f"{FEATURES}.npy", "w", force_zip64=True) as file:
                    _write_header(file, "<f4", (n_rows, n_features))
                    _copy(journal.path(FEATURES), file)
                with archive.open(f"{OFFSETS}.npy", "w") as file:
                    offsets = np.concatenate([[0], np.cumsum(counts)]).astype("<i8")
                    _write_header(file, "<i8", offsets.shape)
                    file.write(offsets.tobytes())
    journal.discard()


def _write_header(file: Sink, dtype: str, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


def _copy(source: Path, target: Sink) -> None:
    with open(source, "rb") as file:
        shutil.copyfileobj(file, target, COPIED_BYTES)
