"""Write an Equivariant Transformer in the layout of TorchMD-NET, the inverse of :mod:`.torchmd_net`."""

from typing import Any

import torch
from torch import Tensor

from basinet.backbones.equivariant_transformer import EquivariantTransformer, EquivariantTransformerConfig
from basinet.models.convert.torchmd_net import BACKBONE, ENERGY_HEAD
from basinet.models.heads.property import ENERGY
from basinet.models.model import Model


def to_torchmd_net(model: Model) -> dict[str, Tensor]:
    """Return the weights of the network and its energy under the names TorchMD-NET has for them.

    Raises:
        ValueError: the model is none that TorchMD-NET could hold: another network, another energy head, corrections,
            or reference energies, which are a prior model there.
    """
    config = _require_exportable(model)
    own = model.state_dict()
    state = {
        "mean": torch.zeros_like(own["heads.energy.standard.scale"]),
        "std": own["heads.energy.standard.scale"],
        f"{BACKBONE}distance.box": torch.zeros(3, 3, dtype=own["backbone.basis.means"].dtype),  # no cell
        f"{BACKBONE}embedding.weight": own["backbone.embedding.weight"],
        f"{BACKBONE}distance_expansion.means": own["backbone.basis.means"],
        f"{BACKBONE}distance_expansion.betas": own["backbone.basis.beta"].expand(config.n_basis).clone(),
        f"{BACKBONE}neighbor_embedding.embedding.weight": own["backbone.neighbor_embedding.embedding.weight"],
    }
    for kind in ("weight", "bias"):
        new, old = f"{BACKBONE}neighbor_embedding.", "backbone.neighbor_embedding."
        state[f"{new}distance_proj.{kind}"] = own[f"{old}filter.{kind}"]
        state[f"{new}combine.{kind}"] = own[f"{old}combine.{kind}"]
        state[f"{BACKBONE}out_norm.{kind}"] = own[f"backbone.scalar_norm.{kind}"]
    for n in range(config.n_layers):
        state |= _layer(own, f"backbone.layers.{n}.", f"{BACKBONE}attention_layers.{n}.", config)
    return state | _energy_head(own)


def hyper_parameters(config: EquivariantTransformerConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Return the options with which TorchMD-NET builds the same network."""
    return {
        "model": "equivariant-transformer",
        "embedding_dimension": config.n_features,
        "num_layers": config.n_layers,
        "num_heads": config.n_heads,
        "num_rbf": config.n_basis,
        "rbf_type": "expnorm",
        "trainable_rbf": False,
        "activation": "silu",
        "attn_activation": "silu",
        "neighbor_embedding": True,
        "distance_influence": "both",
        "cutoff_lower": 0.0,
        "cutoff_upper": config.cutoff,
        "max_z": 100,
        "max_num_neighbors": 128,
        "vector_cutoff": config.vector_cutoff,
        "aggr": "add",
        "output_model": "Scalar",
        "reduce_op": "add",
        "derivative": True,
        "prior_model": None,
        "atom_filter": -1,
        "precision": 64 if dtype == torch.float64 else 32,
    }


def _require_exportable(model: Model) -> EquivariantTransformerConfig:
    backbone = model.backbone
    problems: list[str] = []
    if not isinstance(backbone, EquivariantTransformer) or backbone.config.vector_norm != "none":
        problems.append("its network is no plain Equivariant Transformer")
    if model.forms().get("energy") != ENERGY:
        problems.append("it has no energy in eV")
    elif bool((model.energy_scale.references != 0).any()):
        problems.append("it has reference energies (drop them to export energies relative to them)")
    if model.named_corrections():
        problems.append("it has corrections of its energy")
    if problems or not isinstance(backbone, EquivariantTransformer):
        raise ValueError(f"the model cannot be a checkpoint of TorchMD-NET: {'; '.join(problems)}")
    return backbone.config


def _layer(own: dict[str, Tensor], old: str, new: str, config: EquivariantTransformerConfig) -> dict[str, Tensor]:
    n = config.n_features
    state = {f"{new}vec_proj.weight": own[f"{old}vector_projection.weight"]}
    for kind in ("weight", "bias"):
        state[f"{new}layernorm.{kind}"] = own[f"{old}norm.{kind}"]
        state[f"{new}o_proj.{kind}"] = own[f"{old}output.{kind}"]
        query, key, value = own[f"{old}query_key_value.{kind}"].split([n, n, 3 * n])
        state |= {f"{new}q_proj.{kind}": query.clone(), f"{new}k_proj.{kind}": key.clone()}
        state[f"{new}v_proj.{kind}"] = _inside_heads(value, config.n_heads)
        for_key, for_value = own[f"{old}filters.{kind}"].split([n, 3 * n])
        state[f"{new}dk_proj.{kind}"] = for_key.clone()
        state[f"{new}dv_proj.{kind}"] = _inside_heads(for_value, config.n_heads)
    return state


def _inside_heads(rows: Tensor, n_heads: int) -> Tensor:
    """Reorder rows from (part, head, feature) to (head, part, feature)."""
    return rows.unflatten(0, (3, n_heads, -1)).transpose(0, 1).flatten(0, 2).contiguous()


def _energy_head(own: dict[str, Tensor]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for block, name in enumerate(("first", "second")):
        old, new = f"heads.energy.readout.atoms.gated.{name}.", f"{ENERGY_HEAD}{block}."
        rows = own[f"{old}vector_projection.weight"]
        n_in = own[f"{old}hidden.weight"].shape[0]
        state[f"{new}vec1_proj.weight"], state[f"{new}vec2_proj.weight"] = rows[:n_in].clone(), rows[n_in:].clone()
        for kind in ("weight", "bias"):
            state[f"{new}update_net.layers.0.{kind}"] = own[f"{old}hidden.{kind}"]
            state[f"{new}update_net.layers.2.{kind}"] = own[f"{old}gates.{kind}"]
    return state
