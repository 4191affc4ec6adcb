"""Convert models from and to the files of other codes."""

import json
from collections.abc import Sequence
from pathlib import Path

from ase.data import atomic_numbers, chemical_symbols

from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.files import write_text, write_torch
from basinet.models.checkpoint import load_model, save_model
from basinet.models.convert.export import hyper_parameters, to_torchmd_net
from basinet.models.convert.published import Layout, Published, Sizes, read_published
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
    """Write a checkpoint of another code as a model file, and return the model.

    Args:
        checkpoint: the file.
        out: model file to write.
        layout: code of the checkpoint; ``None``: by the names of its tensors.
        sizes: hyper-parameters missing in the file.
        energy_unit: unit of the energies in training.
        elements: symbols of the elements in training; empty: any are accepted.
        level_of_theory: level of theory of the labels in training.
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
    """Write a model as a checkpoint of TorchMD-NET; return the file of reference energies left out.

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
        raise ValueError(f"{symbol!r} is not an element; give symbols, for example --elements 'H C N O'")
    return atomic_numbers[symbol]
