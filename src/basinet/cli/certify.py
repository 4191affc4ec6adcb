"""The command that examines a model."""

from pathlib import Path
from typing import Annotated

import typer

from basinet.cli.arguments import ModelFile
from basinet.terminal import columns, progress, say

EXIT_FAULT = 1
"""A threshold is exceeded."""


def certify(
    model: ModelFile,
    thresholds: Annotated[
        list[str] | None,
        typer.Argument(
            help="Errors that pass, key=value: symmetry, finite_difference, cutoff, size, batch, layout, precision, "
            "determinism, kernels."
        ),
    ] = None,
    molecules: Annotated[
        Path | None, typer.Option(help="Molecules to examine it on (the first six); well-known ones without a file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Card to write (.json, and .md beside it).")] = None,
) -> None:
    """Measure what a model promises: symmetries, forces, smoothness. Exit code 1 if a threshold is exceeded.

    Of an ensemble every member is examined; the worst of each check is shown, and all are in the card.
    """
    from basinet.commands.certify import HEADER, card_of, rows_of, verdict_of, write_card
    from basinet.commands.certify import certify as run
    from basinet.config import read_settings
    from basinet.evaluation.certificate import Thresholds

    limits = read_settings(Thresholds, dict(map(_pair, thresholds or [])), "thresholds")
    with progress("examining") as show:
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
