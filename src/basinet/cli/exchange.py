"""The commands that read and write checkpoints of other codes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from basinet.cli.arguments import ModelFile
from basinet.terminal import say


class From(StrEnum):
    """Codes whose checkpoints are read."""

    AUTO = "auto"
    EMGP = "3d-emgp"
    TORCHMD_NET = "torchmd-net"
    COORDINATE_DENOISING = "coordinate-denoising"
    FRAD = "frad"


class To(StrEnum):
    """Codes whose checkpoints are written."""

    TORCHMD_NET = "torchmd-net"


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of another code.")],
    out: Annotated[Path, typer.Argument(help="Model file to write (*.safetensors).")],
    layout: Annotated[From, typer.Option("--from", help="Which code; auto tells by the tensors.")] = From.AUTO,
    n_heads: Annotated[int | None, typer.Option(help="Attention heads, where the file does not say.")] = None,
    cutoff: Annotated[float | None, typer.Option(help="Cutoff in Å, where the file does not say.")] = None,
    energy_unit: Annotated[str, typer.Option(help="Of the energies it was trained on: eV, Ha, kcal/mol ...")] = "eV",
    elements: Annotated[str, typer.Option(help="It was trained on: 'H C N O'; without, it is asked about any.")] = "",
    level_of_theory: Annotated[str, typer.Option(help="Of the labels it was trained on.")] = "",
) -> None:
    """Turn a checkpoint of 3D-EMGP, TorchMD-NET (ET), coordinate denoising or Frad into a model file."""
    from basinet.commands.exchange import convert as run
    from basinet.models.convert.published import Sizes
    from basinet.models.file import n_parameters

    found = run(
        checkpoint,
        out,
        layout=None if layout is From.AUTO else layout.value,
        sizes=Sizes(n_heads, cutoff),
        energy_unit=energy_unit,
        elements=elements.replace(",", " ").split(),
        level_of_theory=level_of_theory,
    )
    offers = ", ".join(sorted(found.model.offers))
    say(f"{found.layout}: {n_parameters(found.model):,} parameters; it offers {offers}; model: {out}")
    if found.note:
        say(found.note)


def export(
    model: ModelFile,
    out: Annotated[Path, typer.Argument(help="Checkpoint to write (*.ckpt).")],
    layout: Annotated[To, typer.Option("--to", help="Which code.")] = To.TORCHMD_NET,
    without_references: Annotated[
        bool, typer.Option("--without-references/--whole", help="Leave reference energies out; they go beside it.")
    ] = False,
) -> None:
    """Write an Equivariant Transformer as a checkpoint of TorchMD-NET with equal energies and forces."""
    from basinet.commands.exchange import export as run

    beside = run(model, out, without_references=without_references)
    say(f"{layout.value}: {out}")
    if beside is not None:
        say(f"its energies are relative to the reference energies in {beside}")
