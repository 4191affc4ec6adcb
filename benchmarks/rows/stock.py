"""The peers: torchmd-net and nequip, made to compute what our networks compute where they can."""

import importlib
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.data import chemical_symbols
from torch import Tensor, nn

from basinet.backbones.build import build_backbone
from basinet.backbones.equivariant_transformer import EquivariantTransformer, EquivariantTransformerConfig
from basinet.models.convert.export import hyper_parameters, to_torchmd_net
from basinet.models.model import Model, build_model
from basinet.structures.batch import Batch
from rows.timing import NotMeasured

ET_128X8 = EquivariantTransformerConfig(n_features=128, n_layers=8, n_basis=64, vector_cutoff=False)
ET_256X8 = EquivariantTransformerConfig(n_features=256, n_layers=8, n_basis=64, vector_cutoff=False)
ELEMENTS = (1, 6, 7, 8, 9, 16, 17)
PEERS = ("torchmd-net", "nequip")
SCALE = 1e-4
"""Of the energies: forces of a network that was never trained are then small, and dynamics do not explode."""
GAIN = 20.0
"""Of the map before the norms of our heads. Our norm is rounded off below 1e-3, where theirs has no gradient, and the
vectors of a network that was never trained are about as short; longer ones are the same numbers to both."""


def peer_module(name: str) -> Any:
    """Return a module of a peer.

    Raises:
        NotMeasured: it is not installed, or does not run with what is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise NotMeasured(
            f'{name.split(".")[0]} does not import here ({error}); pip install "basinet[bench]"'
        ) from None


def versions() -> dict[str, str]:
    """Return the versions of the peers; "-" where one is not installed."""
    found: dict[str, str] = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return found


def fresh_et(config: EquivariantTransformerConfig, outputs: list[str], seed: int = 0) -> Model:
    """Return an Equivariant Transformer of ours with random weights."""
    torch.manual_seed(seed)
    model = build_model(build_backbone(config), outputs)
    with torch.no_grad():
        for head in model.named_heads().values():
            for name, parameter in head.named_parameters():
                if name == "first.vector_projection.weight":
                    parameter *= GAIN
    model.energy_scale.scale.fill_(SCALE)
    return model


def torchmd_net_of(model: Model) -> nn.Module:
    """Return torchmd-net's Equivariant Transformer with the weights of ours: energies and forces."""
    create = peer_module("torchmdnet.models.model").create_model
    _quiet_warp()
    stock = create(_options(model))
    stock.load_state_dict(to_torchmd_net(model))
    return stock


def torchmd_net_noise_of(model: Model) -> nn.Module:
    """Return torchmd-net's Equivariant Transformer with the weights of ours and its head for one vector per atom."""
    create = peer_module("torchmdnet.models.model").create_model
    _quiet_warp()
    # Our heads of noise and of energy have the same blocks, so the exporter of one serves for the other.
    twin = build_model(model.backbone, ["energy"])
    own = {key: value for key, value in model.heads["noise"].state_dict().items() if "normalizer" not in key}
    twin.heads["energy"].load_state_dict(own)
    stock = create(_options(twin) | {"output_model": "VectorOutput", "derivative": False})
    stock.load_state_dict(to_torchmd_net(twin))
    return stock


def torchmd_net_calculator(model: Model) -> Any:
    """Return torchmd-net's calculator of ASE with the weights of a model of ours."""
    calculator = peer_module("torchmdnet.calculators").TMDNETCalculator
    _quiet_warp()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "stock.ckpt"
        state = {f"model.{key}": value for key, value in to_torchmd_net(model).items()}
        torch.save({"state_dict": state, "hyper_parameters": _options(model)}, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return calculator(str(path), remove_ref_energy=False)


def nequip_of(batch: Batch, *, cutoff: float, **sizes: Any) -> Callable[[], Tensor]:
    """Return a call of nequip that gives energies and forces of a batch whose neighbours it was given beforehand.

    Args:
        batch: what it is asked for; the list of neighbours is made once, which is in nequip's favour.
        cutoff: Å.
        sizes: ``l_max``, ``num_layers``, ``num_features``.
    """
    build = peer_module("nequip.model").NequIPGNNModel
    data = peer_module("nequip.data")
    symbols = [chemical_symbols[z] for z in ELEMENTS]
    before = torch.get_default_dtype()
    peer_module(
        "nequip.utils.global_state"
    ).set_global_state()  # it asks for this, and the default dtype is then float64
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build(
            seed=0, model_dtype="float32", type_names=symbols, r_max=cutoff, avg_num_neighbors=14.0, **sizes
        ).eval()
        frames = [_nequip_frame(data, numbers, positions, cutoff) for numbers, positions in _pieces(batch)]
    inputs = data.AtomicDataDict.batched_from_list(frames)
    torch.set_default_dtype(before)

    def run() -> Tensor:
        return model({key: value.clone() for key, value in inputs.items()})["forces"]

    return run


def _nequip_frame(data: Any, numbers: Tensor, positions: Tensor, cutoff: float) -> Any:
    frame = data.from_ase(Atoms(numbers=numbers.numpy(), positions=positions.double().numpy()))
    frame = data.compute_neighborlist_(frame, r_max=cutoff)
    types = torch.tensor([ELEMENTS.index(int(z)) for z in numbers])
    return frame | {data.AtomicDataDict.ATOM_TYPE_KEY: types}


def _pieces(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    sizes = batch.atoms_per_molecule.tolist()
    return list(zip(batch.atomic_numbers.split(sizes), batch.positions.split(sizes), strict=True))


def _options(model: Model) -> dict[str, Any]:
    assert isinstance(model.backbone, EquivariantTransformer)
    return hyper_parameters(model.backbone.config, torch.get_default_dtype())


def _quiet_warp() -> None:
    peer_module("warp").config.quiet = True
