"""The weights that the authors of 3D-EMGP released (Jiao et al., AAAI 2023), as a model."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from basinet.backbones.egnn import EGNN, EGNNConfig
from basinet.models.convert.state_source import StateSource, load_renamed
from basinet.models.model import Model, build_model
from basinet.models.scope import Scope
from basinet.noise.ladder import geometric_ladder

EMGP_EGNN = EGNNConfig()
"""The published network."""
ELEMENTS = frozenset({1, 6, 7, 8, 9})
"""H, C, N, O, F: the columns of all other elements are still where they were initialised."""
WRAPPER = "module."
"""What distributed training put before every name."""
IGNORED = frozenset(
    # The maps that would move atoms; the energy does not depend on them.
    f"model.gcl_{layer}.coord_mlp.{part}"
    for layer in range(EMGP_EGNN.n_layers)
    for part in ("0.weight", "0.bias", "2.weight")
)


def read_emgp(path: Path) -> Model:
    """Return the model in a checkpoint file of 3D-EMGP.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such checkpoint, or holds Python objects beside the weights.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError):
        raise ValueError(
            f"{path} is no file of weights alone; if you trust where it comes from, load it with torch yourself and "
            'give its entry "model" to from_emgp'
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), Mapping):
        raise ValueError(f'{path} has no entry "model"; expected a checkpoint of 3D-EMGP')
    return from_emgp(content["model"])


def from_emgp(state: Mapping[str, Tensor]) -> Model:
    """Return the published EGNN with its pooled energy and its noise levels, and the elements it was trained on.

    The energy is none in eV: minus its gradient was trained to be the way back from noise, in units of its size.

    Raises:
        ValueError: a tensor is missing, left over or of the wrong shape, or the noise levels are others.
    """
    source = StateSource({key.removeprefix(WRAPPER): value for key, value in state.items()}, IGNORED)
    model = build_model(EGNN(EMGP_EGNN), ["pooled_energy", "noise_level"])
    renamed = source.take_linear("model.embedding_in", "backbone.embedding")
    for layer in range(EMGP_EGNN.n_layers):
        renamed |= _layer_tensors(source, f"model.gcl_{layer}.", f"backbone.layers.{layer}.")
    for old, new in (
        ("node_dec", "heads.energy.readout.atomic"),
        ("graph_dec", "heads.energy.readout.of_pool"),
        ("noise_pred", "heads.noise_level.levels"),
    ):
        for part in (0, 2):
            renamed |= source.take_linear(f"{old}.{part}", f"{new}.{part}")
    _check_levels(source.take("sigmas"))
    source.finish()
    scale = {f"heads.energy.standard.{key}": value for key, value in model.energy_scale.state_dict().items()}
    load_renamed(model, renamed | scale)
    model.scope = Scope(ELEMENTS, "")
    return model


def _layer_tensors(source: StateSource, old: str, new: str) -> dict[str, Tensor]:
    return {
        **source.take_linear(f"{old}edge_mlp.0", f"{new}messages.first.joined"),
        **source.take_linear(f"{old}edge_mlp.2", f"{new}messages.second"),
        **source.take_linear(f"{old}att_mlp.0", f"{new}messages.gate"),
        **source.take_linear(f"{old}node_mlp.0", f"{new}update.first"),
        **source.take_linear(f"{old}node_mlp.2", f"{new}update.second"),
    }


def _check_levels(sigmas: Tensor) -> None:
    """Refuse weights whose noise levels are not the ones our ladder has: the classes would mean other sizes."""
    ours = torch.tensor(geometric_ladder().sigmas)
    if sigmas.shape != ours.shape or not torch.allclose(sigmas.float(), ours, rtol=1e-5):
        raise ValueError(
            f"the checkpoint has {len(sigmas)} noise levels from {float(sigmas[0]):g} to {float(sigmas[-1]):g} Å; "
            f"expected {len(ours)} from {float(ours[0]):g} to {float(ours[-1]):g} Å in a constant ratio"
        )
