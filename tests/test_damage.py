"""Damage to any file we write is found when it is read: one line that names the file, and never other numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import molecule as g2

from basinet.backbones.build import build_backbone
from basinet.commands.build import BuildRecipe, build
from basinet.commands.simulate.start import load_start, save_start
from basinet.data.readers import load_store, read_molecules
from basinet.data.store.store import MoleculeStore
from basinet.files import read_arrays, read_json, read_torch, write_arrays, write_torch
from basinet.md.dynamics import Dynamics, start
from basinet.md.integrators import LangevinBAOAB, replica_seeds
from basinet.models.checkpoint import load_ensemble, save_model
from basinet.models.model import build_model
from basinet.models.scope import Scope
from basinet.structures import Molecule
from basinet.structures.batch import Batch, collate
from small_runs import TINY, frames, make_store

N_FLIPS = 60
"""Bytes that are changed in each kind of file, one at a time."""


def same(one: Any, other: Any) -> bool:
    """Whether two contents of files are equal, to the bit."""
    if isinstance(one, torch.Tensor | np.ndarray):
        a, b = np.asarray(one), np.asarray(other)
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def require_found(path: Path, read: Callable[[], Any], named: Path | None = None, n_flips: int = N_FLIPS) -> int:
    """Change bytes of a file, one at a time; return how often that was refused. What is read is the same otherwise.

    Args:
        path: The file to damage.
        read: Reads it, and returns all that came of it.
        named: What the error must name; ``None``: the file.
        n_flips: Number of bytes.
    """
    whole, expected, random, refused = path.read_bytes(), read(), np.random.default_rng(0), 0
    for place in random.choice(len(whole), min(n_flips, len(whole)), replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            found = read()
        except ValueError as error:
            assert str(named or path) in str(error) and "\n" not in str(error), f"byte {place}: {error}"
            refused += 1
        else:
            assert same(found, expected), f"byte {place} of {len(whole)} changed what was read"
    path.write_bytes(whole)
    assert same(read(), expected)
    return refused


def saved_model(path: Path) -> Path:
    torch.manual_seed(0)
    model = build_model(build_backbone(TINY), ["energy", "forces"])
    model.scope = Scope(frozenset({1, 6, 8}), "PBE", frozenset({0}), (1, 20))
    save_model(model, path, TINY, {"recipe": {"steps": 3}, "mae": 0.125})
    return path


def content_of_model(path: Path) -> dict[str, Any]:
    file = load_ensemble(path)
    model = file.members[0]
    return {
        "weights": dict(model.state_dict()),
        "scope": model.scope,
        "about": dict(file.metadata),
        "as": file.backbone,
    }


def content_of_store(path: Path) -> list[Any]:
    store, _ = load_store(path)
    return [store.manifest, *(shard.to_files() for shard in store.shards)]


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    path = saved_model(tmp_path / "model.safetensors")
    assert require_found(path, lambda: content_of_model(path)) == N_FLIPS


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", frames(["H2O", "CH4"]))
    require_found(store / "manifest.json", lambda: content_of_store(store), n_flips=2 * N_FLIPS)


@pytest.mark.parametrize("name", ["positions", "atom_label.forces", "offsets", "names"])
def test_a_damaged_array_of_a_store_is_refused(tmp_path: Path, name: str) -> None:
    store = make_store(tmp_path / "store", frames(["H2O", "CH4"]))
    (file,) = store.glob(f"shard-*/{name}.npy")
    assert require_found(file, lambda: content_of_store(store), n_flips=20) == 20
    assert require_found(file, lambda: [m.positions for m in read_molecules(store)], file.parent, n_flips=20) == 20


def test_any_header_of_an_array_is_read_or_refused_by_name(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", frames(["H2O"]))
    (file,) = store.glob("shard-*/atomic_numbers.npy")
    whole = file.read_bytes()
    for place in range(6, 128):
        for value in (0, 0xFF, ord("(")):
            file.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                MoleculeStore.open(store)
            except ValueError as error:
                assert "shard-" in str(error) and "\n" not in str(error), f"byte {place}: {error}"
    file.write_bytes(whole[:47] + bytes(16) + whole[63:])
    with pytest.raises(ValueError, match=r"atomic_numbers\.npy is not a \.npy file"):
        MoleculeStore.open(store)


def test_a_damaged_state_of_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    state = {"step": 3, "best": 0.25, "model": {"weight": torch.rand(40), "n": torch.arange(5)}, "list": ["a", 1]}
    write_torch(path, state)
    assert require_found(path, lambda: read_torch(path), n_flips=4 * N_FLIPS) > 2 * N_FLIPS


def at_rest(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(batch.n_molecules, dtype=torch.float64), torch.zeros_like(batch.positions)


def test_a_damaged_state_of_a_simulation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    water = g2("H2O")
    batch = collate([Molecule(atomic_numbers=water.numbers, positions=water.positions)], torch.float64)

    def begin() -> Dynamics:
        integrator = LangevinBAOAB(dt=0.5, temperature=300.0, friction=0.01)
        return Dynamics(
            at_rest, start(at_rest, batch, integrator, 300.0, replica_seeds(0, 1)), integrator, record_every=1
        )

    run = begin()
    run.run(5)
    run.save(path)

    def read() -> list[Any]:
        run = begin()
        run.load(path)
        state = run.state
        return [state.step, state.batch.positions, state.velocities, state.energy, state.forces]

    assert require_found(path, read, n_flips=2 * N_FLIPS) > N_FLIPS


def test_damaged_molecules_of_a_simulation_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "start.npz"
    save_start(path, frames(["H2O"], 1))
    read = lambda: [(m.atomic_numbers, m.positions, m.name, m.charge, m.bonds) for m in load_start(path)]  # noqa: E731
    assert require_found(path, read, n_flips=2 * N_FLIPS) > N_FLIPS
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"start\.npz cannot be read"):
        load_start(path)
    write_arrays(path, {"n": np.array(1)})
    with pytest.raises(ValueError, match=r"start\.npz does not hold the molecules"):
        load_start(path)


def test_what_is_no_archive_and_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "some.file"
    for content in (b"", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(content)
        for read in (read_arrays, read_json, read_torch, load_ensemble):
            with pytest.raises(ValueError, match=r"some\.file"):
                read(path)


def test_a_manifest_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", frames(["H2O"]))
    manifest = store / "manifest.json"
    content = bytearray(manifest.read_bytes())
    content[300] = 0xFF
    manifest.write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged: byte 300 is not UTF-8"):
        MoleculeStore.open(store)


def test_a_store_that_is_damaged_is_not_copied(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", frames(["H2O"]))
    (file,) = store.glob("shard-*/atom_label.forces.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x80
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"atom_label\.forces\.npy does not have the hash in the manifest"):
        build(BuildRecipe(data=(store,)), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
