"""Models from and to the files of other codes."""

import json
from collections.abc import Sequence
from pathlib import Path

from ase.data import atomic_numbers, chemical_symbols

from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.files import write_text, write_torch
from basinet.models.convert.export import hyper_parameters, to_torchmd_net
from basinet.models.convert.published import Layout, Published, Sizes, read_published
from basinet.models.file import load_model, save_model
from basinet.units import energy_factor


def convert(
    checkpoint: Path,
    out: Path,
    *,
    layout: Layout | None = None,
    sizes: Sizes | None = None,
    energy_unit: str = "eV",
    elements: Sequence[str] = (),
    level_of_theory: str = "",
) -> Published:
    """Write a checkpoint of another code as a model file, and return what was read.

    Args:
        checkpoint: the file.
        out: model file to write.
        layout: of which code it is; ``None`` tells by the names of its tensors.
        sizes: what the file does not say.
        energy_unit: of the energies it was trained on.
        elements: symbols of those it was trained on; without them it is asked about any.
        level_of_theory: of the labels it was trained on.
    """
    found = read_published(checkpoint, layout, sizes)
    model = found.model
    if "energy" in model.heads:
        model.energy_scale.scale *= energy_factor(energy_unit)
    scope = model.scope._replace(level_of_theory=level_of_theory)
    if elements:
        scope = scope._replace(elements=frozenset(_number(symbol) for symbol in elements))
    model.scope = scope
    save_model(model, out, found.backbone, {"converted": {"from": checkpoint.name, "layout": found.layout}})
    return found


def export(model_file: Path, out: Path, *, without_references: bool = False) -> Path | None:
    """Write a model as a checkpoint of TorchMD-NET, and return the file of the reference energies that were left out.

    Args:
        model_file: an Equivariant Transformer with an energy.
        out: checkpoint to write, by convention ``*.ckpt``.
        without_references: leave reference energies out, and write them beside it (eV by element).
    """
    model, config, _ = load_model(model_file)
    energies = {chemical_symbols[z]: float(e) for z, e in enumerate(model.energy_scale.references) if e != 0}
    if without_references:
        model.energy_scale.references.zero_()
    state = {f"model.{key}": value for key, value in to_torchmd_net(model).items()}
    assert isinstance(config, EquivariantTransformerConfig)  # or the line before had refused it
    options = hyper_parameters(config, next(model.parameters()).dtype)
    write_torch(out, {"state_dict": state, "hyper_parameters": options, "epoch": 0, "global_step": 0})
    if not (without_references and energies):
        return None
    beside = out.with_suffix(".references.json")
    write_text(beside, json.dumps({"unit": "eV", "energies": energies}, indent=2) + "\n")
    return beside


def _number(symbol: str) -> int:
    if symbol not in atomic_numbers or atomic_numbers[symbol] == 0:
        raise ValueError(f"{symbol!r} is no element; give symbols, for example --elements 'H C N O'")
    return atomic_numbers[symbol]
