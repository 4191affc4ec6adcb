"""Checkpoint files of published codes as models, and our Equivariant Transformer as a checkpoint of TorchMD-NET.

Files are read as weights alone: Python objects in them are refused, not run.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from basinet.backbones.build import BackboneConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformer, EquivariantTransformerConfig
from basinet.models.convert.emgp import EMGP_EGNN, WRAPPER, from_emgp
from basinet.models.convert.state_source import StateSource, load_renamed
from basinet.models.convert.torchmd_net import backbone_tensors, from_torchmd_net, gated_head_tensors
from basinet.models.model import Model, build_model

Layout = Literal["3d-emgp", "torchmd-net", "coordinate-denoising", "frad"]
"""Codes whose checkpoints are read; Frad's have the layout of coordinate denoising."""
NOISE_HEAD = "output_model_noise.output_network."
UNTRAINED = ("output_model.", "mean", "std")
"""What a checkpoint of coordinate denoising holds of an energy that was never trained."""
REQUIRED: Mapping[str, Any] = {
    "rbf_type": "expnorm",
    "activation": "silu",
    "attn_activation": "silu",
    "neighbor_embedding": True,
    "distance_influence": "both",
    "cutoff_lower": 0.0,
    "max_z": 100,
}
"""Options of TorchMD-NET that our network has one form of."""


class Published(NamedTuple):
    """A checkpoint as a model."""

    model: Model
    backbone: BackboneConfig
    layout: Layout
    note: str
    """What a reader should know of it."""


class Sizes(NamedTuple):
    """What the tensors of a checkpoint do not say; ``None``: as its hyper-parameters say."""

    n_heads: int | None = None
    cutoff: float | None = None
    """Å."""


def read_published(path: Path, layout: Layout | None = None, sizes: Sizes | None = None) -> Published:
    """Return the model in a checkpoint file.

    Args:
        path: a file of torch: of Lightning (``state_dict`` and ``hyper_parameters``), of 3D-EMGP (``model``), or
            weights alone.
        layout: of which code it is; ``None`` tells by the names of the tensors.
        sizes: what is not in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds Python objects, a tensor is missing or left over, or the network has options ours has not.
    """
    content = _load(path)
    state, options = _weights(content, path), content.get("hyper_parameters", {})
    found = _layout_of(state, path)
    if layout is not None and (layout == "frad") + (layout == "coordinate-denoising") == 0 and layout != found:
        raise ValueError(f"{path} has the layout of {found}, and {layout} was asked for")
    if found == "3d-emgp":
        return Published(from_emgp(state), EMGP_EGNN, found, "its energy is not in eV: fine-tune it for energies")
    config = _transformer_config(state, options, sizes or Sizes(), path)
    if found == "torchmd-net":
        if layout in ("coordinate-denoising", "frad"):
            raise ValueError(f"{path} has no noise head, so it is none of {layout}; convert it with --from torchmd-net")
        return Published(from_torchmd_net(state, config), config, found, "")
    note = "the energy head in it was never trained and is left out"
    return Published(from_denoising(state, config), config, layout or found, note)


def from_denoising(state: Mapping[str, Tensor], config: EquivariantTransformerConfig) -> Model:
    """Return a network pre-trained by coordinate denoising, with its noise head and the statistics of the noise.

    Raises:
        ValueError: a tensor is missing, left over or of the wrong shape, or the network normalises after every layer.
    """
    if any(".vec_norms." in key for key in state):
        raise ValueError(
            "the network normalises scalars and vectors after every layer (Frad's network for QM9), which ours does "
            "not; its networks for forces (md17: true) are converted"
        )
    ignored = frozenset(key for key in state if key.startswith(UNTRAINED))
    source = StateSource(state, ignored | {"representation_model.distance.box"})
    embedding = source.take("representation_model.embedding.weight")
    model = build_model(EquivariantTransformer(config), ["noise"]).to(embedding.dtype)
    renamed = backbone_tensors(source, config) | gated_head_tensors(source, NOISE_HEAD, "heads.noise.atoms.")
    count = source.take("pos_normalizer.acc_count").double().reshape(())
    renamed |= {
        "heads.noise.normalizer.count": count,
        "heads.noise.normalizer.total": source.take("pos_normalizer.acc_sum").double(),
        "heads.noise.normalizer.total_of_squares": source.take("pos_normalizer.acc_squared_sum").double(),
    }
    source.take("pos_normalizer.num_accumulations")
    source.finish()
    load_renamed(model, renamed)
    return model


def _load(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError):
        raise ValueError(
            f"{path} is no file of weights and plain values alone (it may hold Python objects, which could run code, "
            "or be cut short); if you trust where it comes from, load it with torch yourself and save its state_dict "
            "and hyper_parameters, as a plain dict, with torch.save"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected a mapping of names to tensors, got {type(content).__name__}")
    return content


def _weights(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the tensors by name, without what Lightning and distributed training put before them."""
    inside = next((content[key] for key in ("state_dict", "model") if key in content), content)
    if not isinstance(inside, Mapping) or not inside or not all(isinstance(v, Tensor) for v in inside.values()):
        raise ValueError(f"{path} holds no weights: expected tensors by name, alone or under state_dict or model")
    prefixes = ("model.",) if "state_dict" in content else ()
    state: dict[str, Tensor] = {}
    for key, value in inside.items():
        for prefix in (WRAPPER, *prefixes):
            key = key.removeprefix(prefix)
        state[key] = value
    return state


def _layout_of(state: Mapping[str, Tensor], path: Path) -> Layout:
    if any(key.startswith("model.gcl_") for key in state):
        return "3d-emgp"
    if "representation_model.embedding.weight" not in state:
        raise ValueError(f"{path}: no layout that is known; the first tensors are {', '.join(sorted(state)[:3])}")
    return "coordinate-denoising" if any(key.startswith(NOISE_HEAD) for key in state) else "torchmd-net"


def _transformer_config(
    state: Mapping[str, Tensor], options: Any, sizes: Sizes, path: Path
) -> EquivariantTransformerConfig:
    """Return the settings, from the shapes of the tensors and the hyper-parameters."""
    given = dict(options) if isinstance(options, Mapping) else {}
    wrong = [f"{key}={given[key]!r}" for key, value in REQUIRED.items() if given.get(key, value) != value]
    if wrong:
        raise ValueError(f"{path}: the network has options that ours has not: {', '.join(wrong)}")
    n_heads = given.get("num_heads", sizes.n_heads)
    cutoff = given.get("cutoff_upper", sizes.cutoff)
    if n_heads is None or cutoff is None:
        raise ValueError(
            f"{path} has no hyper-parameters, and its weights do not say the number of heads and the cutoff; give both "
            "(--n-heads 8 --cutoff 5 for the published networks)"
        )
    b = "representation_model."
    layers = {key.split(".")[2] for key in state if key.startswith(f"{b}attention_layers.")}
    return EquivariantTransformerConfig(
        n_features=state[f"{b}embedding.weight"].shape[1],
        n_layers=len(layers),
        n_heads=int(n_heads),
        n_basis=len(state[f"{b}distance_expansion.means"]),
        cutoff=float(cutoff),
        vector_cutoff=bool(given.get("vector_cutoff", False)),
        vector_norm="whitened_compatible" if f"{b}out_norm_vec.weight" in state else "none",
    )
