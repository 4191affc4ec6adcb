"""Use a model in TorchSim (``torch-sim-atomistic``, Python 3.12 or later): batched optimisers and dynamics.

::

    import torch_sim as ts
    model = torchsim_model("model.safetensors", device="cuda")
    ts.integrate(atoms, model, integrator=ts.Integrator.nvt_langevin, n_steps=1000, temperature=300, timestep=0.0005)
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from basinet.devices import resolve_device
from basinet.interfaces.models import Precision, Sources, load_potential, members_of
from basinet.models.committee import Committee
from basinet.models.model import Model
from basinet.structures.batch import Batch


def torchsim_model(model: Sources, *, device: str = "cpu", precision: Precision = "float32") -> Any:
    """Return a model for TorchSim: energies (eV) and forces (eV/Å), no stress.

    States of TorchSim have no charges; systems are taken as neutral.

    Args:
        model: a model file, a model, or several of them, which are an ensemble.
        device: ``"cpu"`` or ``"cuda"``.
        precision: precision of the network.

    Returns:
        A ``torch_sim.models.interface.ModelInterface``.

    Raises:
        ImportError: TorchSim is missing.
        ValueError: the model has no energy in eV, or reads bonds.
    """
    try:
        from torch_sim.models.interface import ModelInterface  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError('TorchSim is missing (it needs Python 3.12): pip install "basinet[torchsim]"') from None
    device = resolve_device(device)
    return adapter_of(ModelInterface)(load_potential(model, device, precision), torch.device(device), precision)


def adapter_of(interface: Any) -> Any:
    """Return the class of models for an interface of TorchSim, which may not be installed."""

    class BasinetTorchSimModel(interface):
        """Energies and forces of the systems of a state."""

        def __init__(self, potential: Model | Committee, device: torch.device, precision: Precision) -> None:
            super().__init__()
            self.potential = _checked(potential)
            self._device = device
            self._dtype = getattr(torch, precision)
            self._compute_stress = False
            self._compute_forces = True
            self._memory_scales_with = "n_atoms"

        def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
            """Return ``energy`` [n_systems] and ``forces`` [n_atoms, 3] in the dtype of the state."""
            values = state if isinstance(state, dict) else vars(state)
            if _is_periodic(values.get("pbc", False)):
                raise ValueError("the systems are periodic (pbc), and basinet treats molecules only; set pbc=False")
            batch = batch_of_systems(values["positions"], values["atomic_numbers"], values["system_idx"])
            _require_scope(self.potential, batch)
            found = self.potential(batch, ["energy", "forces"])
            return {name: value.detach().to(values["positions"].dtype) for name, value in found.items()}

    return BasinetTorchSimModel


def batch_of_systems(
    positions: Float[Tensor, "n_atoms 3"], atomic_numbers: Int[Tensor, " n_atoms"], system: Int[Tensor, " n_atoms"]
) -> Batch:
    """Return the systems of a state as molecules; their atoms are sorted by system."""
    n_systems = int(system.max()) + 1 if len(system) else 0
    return Batch(
        atomic_numbers=atomic_numbers.long(), positions=positions, molecule=system.long(), n_molecules=n_systems
    )


def _checked(potential: Model | Committee) -> Model | Committee:
    if "energy" not in potential.offers:
        raise ValueError(f"TorchSim needs energies and forces, and the model offers {sorted(potential.offers)}")
    if any(member.backbone.needs_bonds for member in members_of(potential)):
        raise ValueError("the model reads bonds, which a state of TorchSim does not have; use basinet.Calculator")
    return potential


def _is_periodic(pbc: Any) -> bool:
    return bool(torch.as_tensor(pbc).any())


def _require_scope(potential: Model | Committee, batch: Batch) -> None:
    """Raise a ``ValueError`` if a system is unlike those in training."""
    numbers = torch.split(batch.atomic_numbers.cpu(), batch.atoms_per_molecule.tolist())
    for place, of_system in enumerate(numbers):
        if reasons := potential.scope.outside(of_system.numpy(), 0):
            raise ValueError(f"system {place} is unlike the molecules in training: {'; '.join(reasons)}")
