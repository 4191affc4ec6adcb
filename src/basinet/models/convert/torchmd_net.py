"""Weights in the layout of TorchMD-NET."""

from collections.abc import Mapping

import torch
from torch import Tensor

from basinet.backbones.equivariant_transformer import EquivariantTransformer, EquivariantTransformerConfig
from basinet.models.convert.state_source import StateSource, load_renamed
from basinet.models.model import Model, build_model

BACKBONE = "representation_model."
ENERGY_HEAD = "output_model.output_network."
ENERGY_SCALE = "heads.energy.standard."
IGNORED = frozenset(
    {
        "representation_model.distance.box",  # the cell of a periodic system; a molecule has none
    }
)


def from_torchmd_net(state: Mapping[str, Tensor], config: EquivariantTransformerConfig) -> Model:
    """Return a model with the weights of a TorchMD-NET Equivariant Transformer with scalar output (versions 1 to 3).

    The value projections of TorchMD-NET interleave their three parts inside each head; ours are three blocks. Rows are
    permuted accordingly, so the function is the same.

    Raises:
        ValueError: a tensor is missing, left over, or of the wrong shape.
    """
    source = StateSource(state, IGNORED)
    model = build_model(EquivariantTransformer(config), ["energy"]).to(source.take(f"{BACKBONE}embedding.weight").dtype)
    renamed = backbone_tensors(source, config) | gated_head_tensors(
        source, ENERGY_HEAD, "heads.energy.readout.atoms.gated."
    )
    renamed |= {f"{ENERGY_SCALE}{key}": value for key, value in model.energy_scale.state_dict().items()}
    renamed[f"{ENERGY_SCALE}scale"] = source.take("std").double()
    if float(source.take("mean")) != 0:
        raise ValueError("the checkpoint has a mean energy per molecule, which has no place in a sum over atoms")
    source.finish()
    load_renamed(model, renamed)
    return model


def backbone_tensors(source: StateSource, config: EquivariantTransformerConfig) -> dict[str, Tensor]:
    """Return the tensors of the network under our names."""
    b = BACKBONE
    renamed = {
        "backbone.embedding.weight": source.take(f"{b}embedding.weight"),
        "backbone.basis.means": source.take(f"{b}distance_expansion.means"),
        "backbone.basis.beta": _only_value(source.take(f"{b}distance_expansion.betas")),
        "backbone.neighbor_embedding.embedding.weight": source.take(f"{b}neighbor_embedding.embedding.weight"),
    }
    for kind in ("weight", "bias"):
        renamed[f"backbone.neighbor_embedding.filter.{kind}"] = source.take(
            f"{b}neighbor_embedding.distance_proj.{kind}"
        )
        renamed[f"backbone.neighbor_embedding.combine.{kind}"] = source.take(f"{b}neighbor_embedding.combine.{kind}")
        renamed[f"backbone.scalar_norm.{kind}"] = source.take(f"{b}out_norm.{kind}")
    if config.vector_norm != "none":
        renamed["backbone.vector_norm.weight"] = source.take(f"{b}out_norm_vec.weight")
    for n in range(config.n_layers):
        renamed |= _layer_tensors(source, f"{b}attention_layers.{n}.", f"backbone.layers.{n}.", config.n_heads)
    return renamed


def _only_value(betas: Tensor) -> Tensor:
    """Return the width that all functions share: we do not train them apart."""
    if not torch.all(betas == betas[0]):
        raise ValueError("the checkpoint has trained radial functions, which this network does not have")
    return betas[0]


def _layer_tensors(source: StateSource, old: str, new: str, n_heads: int) -> dict[str, Tensor]:
    renamed = {f"{new}vector_projection.weight": source.take(f"{old}vec_proj.weight")}
    for kind in ("weight", "bias"):
        renamed[f"{new}norm.{kind}"] = source.take(f"{old}layernorm.{kind}")
        renamed[f"{new}output.{kind}"] = source.take(f"{old}o_proj.{kind}")
        value = _blocks_of_heads(source.take(f"{old}v_proj.{kind}"), n_heads)
        query, key = source.take(f"{old}q_proj.{kind}"), source.take(f"{old}k_proj.{kind}")
        renamed[f"{new}query_key_value.{kind}"] = torch.cat([query, key, value])
        filters = _blocks_of_heads(source.take(f"{old}dv_proj.{kind}"), n_heads)
        renamed[f"{new}filters.{kind}"] = torch.cat([source.take(f"{old}dk_proj.{kind}"), filters])
    return renamed


def _blocks_of_heads(rows: Tensor, n_heads: int) -> Tensor:
    """Reorder rows from (head, part, feature) to (part, head, feature)."""
    return rows.unflatten(0, (n_heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def gated_head_tensors(source: StateSource, old_head: str, new_head: str) -> dict[str, Tensor]:
    """Return the tensors of a head of two gated blocks; the layers of its map are numbered with or without a name."""
    renamed: dict[str, Tensor] = {}
    for block, name in enumerate(("first", "second")):
        old, new = f"{old_head}{block}.", f"{new_head}{name}."
        for_norm, for_output = source.take(f"{old}vec1_proj.weight"), source.take(f"{old}vec2_proj.weight")
        renamed[f"{new}vector_projection.weight"] = torch.cat([for_norm, for_output])
        layers = f"{old}update_net.layers." if source.has(f"{old}update_net.layers.0.weight") else f"{old}update_net."
        renamed |= source.take_linear(f"{layers}0", f"{new}hidden") | source.take_linear(f"{layers}2", f"{new}gates")
    return renamed
