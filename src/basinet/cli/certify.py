"""The command that examines a model."""

from pathlib import Path
from typing import Annotated

import typer

from basinet.cli.arguments import ModelFile
from basinet.terminal import columns, say

EXIT_FAULT = 1
"""A threshold is exceeded."""


def certify(
    model: ModelFile,
    thresholds: Annotated[
        list[str] | None,
        typer.Argument(
            help="Errors that pass, key=value: symmetry, finite_difference, cutoff, size, batch, layout, precision, "
            "determinism, compiled."
        ),
    ] = None,
    molecules: Annotated[
        Path | None, typer.Option(help="Molecules to examine it on (the first six); well-known ones without a file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Card to write (.json, and .md beside it).")] = None,
    compiled: Annotated[
        bool, typer.Option("--compiled/--no-compiled", help="Compare with the compiled model too: takes a minute.")
    ] = True,
) -> None:
    """Measure what a model promises: symmetries, forces, smoothness. Exit code 1 if a threshold is exceeded."""
    from basinet.config import read_settings
    from basinet.evaluation.certificate import Thresholds
    from basinet.models.checkpoint import load_ensemble
    from basinet.runs.certify import card_of, rows_of, write_card
    from basinet.runs.certify import certify as run

    limits = read_settings(Thresholds, dict(map(_pair, thresholds or [])), "thresholds")
    certificate = run(model, molecules, thresholds=limits, compiled=compiled)
    columns(
        f"certificate of {model}", ["check", "output", "largest error", "threshold", "verdict"], rows_of(certificate)
    )
    if (n_members := len(load_ensemble(model).members)) > 1:
        say(f"this is of the first of {n_members} members; certify the others before they are joined")
    card = card_of(model) if out is None else out
    write_card(certificate, model, card)
    n_faults = sum(check.verdict == "fault" for check in certificate.checks)
    n_open = sum(check.verdict == "not measured" for check in certificate.checks)
    say(
        f"{'passed' if certificate.passed else f'{n_faults} of {len(certificate.checks)} checks not passed'}"
        f"{f', {n_open} not measured' if n_open else ''}; card: {card}"
    )
    if not certificate.passed:
        raise typer.Exit(EXIT_FAULT)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"expected a threshold as key=value, got {text!r}")
    return name, value
