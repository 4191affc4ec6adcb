"""The model for TorchSim, through a stand-in of its interface where TorchSim itself is not installed."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import molecule as g2
from torch import Tensor

from basinet.backbones.egnn import EGNNConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.interfaces.ase import Calculator
from basinet.interfaces.torchsim import adapter_of, torchsim_model
from small_runs import tiny_model


class Interface(torch.nn.Module):
    """What ``torch_sim.models.interface.ModelInterface`` (0.3) asks of a model, as far as it is not abstract."""

    _device: torch.device
    _dtype: torch.dtype
    _compute_stress: bool
    _compute_forces: bool

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    def compute_stress(self) -> bool:
        return self._compute_stress

    @property
    def compute_forces(self) -> bool:
        return self._compute_forces

    @property
    def memory_scales_with(self) -> str:
        return self._memory_scales_with


def state_of(*names: str, pbc: bool = False) -> dict[str, Any]:
    atoms = [g2(name) for name in names]
    return {
        "positions": torch.from_numpy(np.concatenate([a.positions for a in atoms])),
        "atomic_numbers": torch.from_numpy(np.concatenate([a.numbers for a in atoms])),
        "system_idx": torch.repeat_interleave(torch.arange(len(atoms)), torch.tensor([len(a) for a in atoms])),
        "cell": torch.eye(3).repeat(len(atoms), 1, 1),
        "pbc": pbc,
    }


def adapted(**changes: Any) -> Any:
    model = tiny_model().double().eval()
    model.scope = model.scope._replace(**changes)
    return adapter_of(Interface)(model, torch.device("cpu"), "float64")


@pytest.mark.parametrize("as_object", [False, True])
def test_systems_have_the_energies_and_forces_of_the_calculator(as_object: bool) -> None:
    state = state_of("CH3CH2OH", "CO", "H2O")
    before = {key: value.clone() for key, value in state.items() if isinstance(value, Tensor)}
    found = adapted()(SimpleNamespace(**state) if as_object else state)
    calc = Calculator(tiny_model(), precision="float64")
    assert found["energy"].shape == (3,)
    for place, name in enumerate(("CH3CH2OH", "CO", "H2O")):
        assert float(found["energy"][place]) == pytest.approx(calc.get_potential_energy(g2(name)), rel=1e-12)
        forces = found["forces"][state["system_idx"] == place].numpy()
        np.testing.assert_allclose(forces, calc.get_forces(g2(name)), rtol=1e-9, atol=1e-10)
    assert all(torch.equal(value, state[key]) for key, value in before.items())
    assert not found["forces"].requires_grad


def test_what_the_interface_asks_for_is_there() -> None:
    model = adapted()
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float64)
    assert (model.compute_forces, model.compute_stress, model.memory_scales_with) == (True, False, "n_atoms")


def test_periodic_systems_and_those_out_of_scope_are_refused() -> None:
    with pytest.raises(ValueError, match="the systems are periodic"):
        adapted()(state_of("H2O", pbc=True))
    with pytest.raises(ValueError, match="system 1 is unlike .*: elements C, the model knows H O"):
        adapted(elements=frozenset({1, 8}))(state_of("H2O", "CO"))


def test_models_that_cannot_be_asked_are_refused() -> None:
    no_energy = tiny_model(["noise"], config=EquivariantTransformerConfig(n_features=8, n_layers=1, n_heads=2))
    with pytest.raises(ValueError, match="TorchSim needs energies and forces, and the model offers .'noise'."):
        adapter_of(Interface)(no_energy, torch.device("cpu"), "float32")
    with pytest.raises(ValueError, match="the model reads bonds"):
        adapter_of(Interface)(tiny_model(config=EGNNConfig(n_features=8, n_layers=1)), torch.device("cpu"), "float32")


def test_without_torchsim_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    with pytest.raises(ImportError, match=r"needs Python 3.12.*pip install .basinet\[torchsim\]"):
        torchsim_model(tiny_model())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="TorchSim needs Python 3.12 or later")
def test_torchsim_itself_takes_the_model() -> None:
    pytest.importorskip("torch_sim", reason="TorchSim is not installed")
    import torch_sim as ts

    model = torchsim_model(tiny_model(), precision="float64")
    start = [g2("H2O"), g2("CH4")]
    final = ts.integrate(start, model, integrator=ts.Integrator.nve, n_steps=5, temperature=100, timestep=0.0001)
    assert torch.isfinite(final.energy).all()
