"""The commands that apply a model to a file: evaluate, predict, embed."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from basinet.cli.arguments import READING, READING_PROPERTY, DataFile, Device, ModelFile, OutsideScope, Processes
from basinet.cli.data import ensure_fetched
from basinet.cli.settings import from_options
from basinet.terminal import columns, progress, say

Smiles = Annotated[str | None, typer.Option(help="Column of the SMILES of a table; default: the one called smiles.")]


def evaluate(
    model: ModelFile,
    molecules: DataFile,
    device: Device = "cpu",
    force_correlation: Annotated[
        bool,
        typer.Option(
            "--force-correlation/--errors",
            help="Correlate the forces that the energy and the noise of a model imply with those of the file.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the correlation as force_correlation.json and .png.")
    ] = None,
) -> None:
    """Compare the energies and forces, or the property, of a model with the labels of a file."""
    from basinet.commands.answer.evaluate import describe_errors, evaluate_file
    from basinet.commands.answer.force_correlation import correlate_file, write_correlation

    ensure_fetched([molecules])
    units = from_options(READING_PROPERTY)
    if force_correlation:
        curves, read = correlate_file(model, molecules, units, device)
        say(read)
        _show_correlation(curves)
        if out is not None:
            write_correlation(curves, out)
        return
    if out is not None:
        raise ValueError("--out is for --force-correlation; errors are only printed")
    found, read = evaluate_file(model, molecules, units, device)
    say(read)
    say(describe_errors(found))


def _show_correlation(curves: Any) -> None:
    sources = sorted(curves.curves)
    header = ["from", "to", "frames", "atoms", *(f"{s}: {name}" for s in sources for name in ("Pearson", "cosine"))]
    bins = [*zip(*(curves.curves[s] for s in sources), strict=True), tuple(curves.whole[s] for s in sources)]
    rows = [
        [f"{b[0].lower:.3g}", f"{b[0].upper:.3g}", f"{b[0].n_molecules}", f"{b[0].n_atoms}"]
        + [f"{value:.3f}" for one in b for value in (one.pearson, one.cosine)]
        for b in bins
    ]
    columns(f"implied and reference forces by {curves.axis}; last row: all", header, rows)
    if curves.n_left_out:
        say(f"{curves.n_left_out} frames skipped: the data has no minimum of their compounds")


def predict(
    model: ModelFile,
    molecules: DataFile,
    out: Annotated[Path, typer.Argument(help="A .csv with a row for each row or molecule, or an extended XYZ.")],
    smiles: Smiles = None,
    conformers: Annotated[
        int | None, typer.Option(help="Conformers of each SMILES, averaged; default: as the model was trained.")
    ] = None,
    coverage: Annotated[
        float | None, typer.Option(help="Coverage of the intervals in a .csv; default: as the model was trained (0.9).")
    ] = None,
    processes: Processes = None,
    outside_scope: OutsideScope = "error",
    device: Device = "cpu",
) -> None:
    """Predict energies (eV) and forces (eV/Å), or the property, of the molecules of a file.

    To .csv: the columns of the table, the prediction with its interval, and a status, a row for each row. To .xyz: the
    molecules with their predictions. The same command resumes an interrupted run.
    """
    from basinet.commands.answer.predict import predict_file, predict_table
    from basinet.data.files.table import is_table

    ensure_fetched([molecules])
    shared = {
        "device": device,
        "reading": from_options(READING).reading(),
        "outside_scope": outside_scope,
    }
    with progress("predicting", "molecules") as show:
        if out.suffix.lower() != ".csv":
            if not (smiles is None and conformers is None and coverage is None):
                raise ValueError(f"--smiles, --conformers and --coverage are for a table (.csv), got {out}")
            done = predict_file(model, molecules, out, **shared, show=show, say=say)
        else:
            done = predict_table(
                model,
                molecules,
                out,
                smiles=smiles,
                n_conformers=conformers,
                coverage=coverage,
                processes=processes if is_table(molecules) else 1,
                **shared,
                show=show,
                say=say,
            )
    failed = f", {done.n_failed} of them without a prediction (see the column reason)" if done.n_failed else ""
    say(f"{done.n_records} molecules written to {out}{failed}")
    _warn(done.n_outside)


def _warn(n_outside: int) -> None:
    if n_outside:
        say(f"{n_outside} of them are unlike those the model was trained on; the reasons stand beside them")


def embed(
    model: ModelFile,
    molecules: DataFile,
    out: Annotated[Path, typer.Argument(help="A .npy for molecules, an .npz with features and offsets for atoms.")],
    level: Annotated[
        Literal["molecule", "atom"], typer.Option(help="Rows: one per molecule, or per atom.")
    ] = "molecule",
    pooling: Annotated[Literal["mean", "sum"], typer.Option(help="From atoms to a molecule.")] = "mean",
    member: Annotated[int, typer.Option(help="Member of an ensemble, from 1.")] = 1,
    smiles: Smiles = None,
    conformers: Annotated[int, typer.Option(help="Conformers of each SMILES of a table, averaged.")] = 1,
    processes: Processes = None,
    outside_scope: OutsideScope = "error",
    device: Device = "cpu",
) -> None:
    """Write the invariant features of molecules, for models and maps of your own.

    An index beside OUT (.index.csv) names each row; rows of molecules that failed are NaN. The same command resumes an
    interrupted run.
    """
    from basinet.commands.answer.embed import embed_file, index_path
    from basinet.commands.answer.records import TableOptions
    from basinet.data.files.table import is_table

    ensure_fetched([molecules])
    workers = processes if is_table(molecules) else 1
    table = TableOptions(smiles=smiles, n_conformers=conformers, processes=workers)
    with progress("embedding", "molecules") as show:
        done = embed_file(
            model,
            molecules,
            out,
            level=level,
            pooling=pooling,
            member=member,
            table=table,
            device=device,
            outside_scope=outside_scope,
            show=show,
            say=say,
        )
    failed = f", {done.n_failed} of them failed" if done.n_failed else ""
    say(f"{done.n_records} molecules written to {out}{failed}; index of the rows: {index_path(out)}")
    _warn(done.n_outside)
