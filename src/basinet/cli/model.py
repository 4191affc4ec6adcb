"""The commands about model files: describe, examine, join, convert."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from basinet.cli.arguments import ModelFile
from basinet.terminal import columns, progress, say, table

EXIT_FAULT = 1
"""A threshold is exceeded."""


def info(model: ModelFile) -> None:
    """Show what a model is, its training data, the molecules it is made for, and its certificate."""
    from basinet.commands.info import describe_model

    table(str(model), describe_model(model))


def ensemble(
    models: Annotated[
        list[Path], typer.Argument(metavar="A B... OUT", help="Models of one network, and the file to make.")
    ],
) -> None:
    """Join models that were trained with different seeds into one that predicts their mean and standard deviation.

    Dynamics can stop where the members disagree (--stop-force-std).
    """
    from basinet.commands.ensemble import join_models

    if len(models) < 3:
        raise ValueError(f"expected at least two models and then the file to make, got {' '.join(map(str, models))}")
    *files, out = models
    committee = join_models(files, out)
    say(f"{len(committee.models)} models in {out}; to describe them: basinet info {out}")


def certify(
    model: ModelFile,
    thresholds: Annotated[
        list[str] | None,
        typer.Argument(
            help="Largest errors that pass, key=value: symmetry, finite_difference, cutoff, size, batch, layout, "
            "precision, determinism, kernels."
        ),
    ] = None,
    molecules: Annotated[
        Path | None, typer.Option(help="File of molecules to examine it on (the first six); default: well-known ones.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Card to write (.json, and .md beside it).")] = None,
) -> None:
    """Measure symmetries, forces and smoothness of a model. Exit code 1 if a threshold is exceeded.

    Every member of an ensemble is examined; the worst of each check is shown, and all are in the card.
    """
    from basinet.commands.certify import HEADER, card_of, rows_of, verdict_of, write_card
    from basinet.commands.certify import certify as run
    from basinet.config import read_settings
    from basinet.evaluation.certificate import Thresholds

    limits = read_settings(Thresholds, dict(map(_pair, thresholds or [])), "thresholds")
    with progress("examining", "members") as show:
        certificate = run(model, molecules, thresholds=limits, show=show)
    rows = rows_of(certificate.checks)
    if (n_members := len(certificate.members)) == 1:
        columns(f"certificate of {model}", HEADER, rows)
    else:
        numbered = [(*row, str(member)) for row, member in zip(rows, certificate.worst_members, strict=True)]
        columns(f"certificate of {model}, the worst of {n_members} members", [*HEADER, "member"], numbered)
        for number, checks in enumerate(certificate.members, start=1):
            say(f"member {number}: {verdict_of(checks)}")
    card = card_of(model) if out is None else out
    write_card(certificate, model, card)
    say(f"{verdict_of(certificate.checks)}; card: {card}")
    if not certificate.passed:
        raise typer.Exit(EXIT_FAULT)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"expected a threshold as key=value, got {text!r}")
    return name, value


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of another code.")],
    out: Annotated[Path, typer.Argument(help="Model file to write (*.safetensors).")],
    layout: Annotated[
        Literal["auto", "3d-emgp", "torchmd-net", "coordinate-denoising", "frad"],
        typer.Option("--from", help="Code that wrote it; auto recognises it by the tensors."),
    ] = "auto",
    n_heads: Annotated[int | None, typer.Option(help="Attention heads, where the file does not say.")] = None,
    cutoff: Annotated[float | None, typer.Option(help="Cutoff in Å, where the file does not say.")] = None,
    energy_unit: Annotated[str, typer.Option(help="Unit of the energies it predicts: eV, Ha, kcal/mol ...")] = "eV",
    elements: Annotated[str, typer.Option(help="Elements in its training data, 'H C N O'; default: any.")] = "",
    level_of_theory: Annotated[str, typer.Option(help="Level of theory of its training data.")] = "",
) -> None:
    """Convert a checkpoint of 3D-EMGP, TorchMD-NET (ET), coordinate denoising or Frad into a model file."""
    from basinet.commands.exchange import convert as run
    from basinet.models.checkpoint import n_parameters
    from basinet.models.convert.published import Sizes

    found = run(
        checkpoint,
        out,
        layout=None if layout == "auto" else layout,
        sizes=Sizes(n_heads, cutoff),
        energy_unit=energy_unit,
        elements=elements.replace(",", " ").split(),
        level_of_theory=level_of_theory,
    )
    offers = ", ".join(sorted(found.model.offers))
    say(f"{found.layout}: {n_parameters(found.model):,} parameters; outputs: {offers}; model: {out}")
    if found.note:
        say(found.note)


def export(
    model: ModelFile,
    out: Annotated[Path, typer.Argument(help="Checkpoint to write (*.ckpt).")],
    layout: Annotated[Literal["torchmd-net"], typer.Option("--to", help="Code that reads it.")] = "torchmd-net",
    without_references: Annotated[
        bool, typer.Option("--without-references/--whole", help="Write reference energies to a file beside it.")
    ] = False,
) -> None:
    """Write an Equivariant Transformer as a checkpoint of TorchMD-NET with equal energies and forces."""
    from basinet.commands.exchange import export as run

    beside = run(model, out, without_references=without_references)
    say(f"{layout}: {out}")
    if beside is not None:
        say(f"its energies are relative to the reference energies in {beside}")
