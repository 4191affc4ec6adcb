"""Write trajectories while a simulation runs.

===========  ========================================================================================================
``extxyz``   ``replica-000.extxyz`` for each replica: positions, momenta, forces, energy, ``time_ps``
``traj``     ``replica-000.traj`` for each replica, in the format of ASE
``hdf5``     one file ``trajectory.h5`` with a group ``replica-000`` for each replica, which holds ``atomic_numbers``
             [n_atoms], ``positions`` [n_frames, n_atoms, 3] Å, ``velocities`` Å/fs, ``forces`` eV/Å, ``energy``
             [n_frames] eV, ``time`` [n_frames] fs
===========  ========================================================================================================

basinet reads all of them (``basinet data info trajectory.h5``), with the energies and forces of the model as labels;
ASE reads the first two. A replica has no frames after it failed.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ase.units
import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_xyz
from ase.io.trajectory import TrajectoryReader, TrajectoryWriter
from jaxtyping import Float64
from torch import Tensor

from basinet.errors import optional_module
from basinet.files import replacing
from basinet.md.dynamics import Failure, MDState, Observer, Record
from basinet.md.running import cut_file
from basinet.structures.batch import Batch

FrameFormat = Literal["extxyz", "traj", "hdf5"]
BYTES_AT_ONCE = 2**25
"""Size of the frames kept in memory between writes."""
HDF5_FILE = "trajectory.h5"


def frame_writer(kind: FrameFormat, directory: Path, start: Batch) -> "FrameWriter":
    """Return an observer that writes frames into a directory.

    Raises:
        ImportError: h5py is not installed (HDF5 only).
    """
    if kind == "hdf5":
        return Hdf5Frames(directory, start)
    return ExtxyzFrames(directory, start) if kind == "extxyz" else TrajFrames(directory, start)


def replica_name(replica: int) -> str:
    """Return the name of a replica in file names."""
    return f"replica-{replica:03d}"


class Frame(NamedTuple):
    """One replica at one time, on the CPU."""

    time: float
    """fs."""
    positions: Float64[np.ndarray, "n_atoms 3"]
    velocities: Float64[np.ndarray, "n_atoms 3"]
    """Å/fs."""
    forces: Float64[np.ndarray, "n_atoms 3"]
    energy: float


class FrameWriter(Observer):
    """Collects frames and writes many at a time."""

    def __init__(self, directory: Path, start: Batch) -> None:
        self.directory = directory
        self.numbers = [z.cpu().numpy() for z in torch.split(start.atomic_numbers, start.atoms_per_molecule.tolist())]
        self._first = [0, *np.cumsum([len(z) for z in self.numbers]).tolist()]
        self._waiting: list[tuple[float, Tensor, Tensor, Tensor]] = []
        bytes_each = 9 * start.positions.numel() // 3 * start.positions.element_size()
        self._at_once = max(1, BYTES_AT_ONCE // bytes_each)
        self._has_begun = False

    def observe(self, record: Record) -> None:
        """Keep one record in memory; write when there are enough."""
        state = record.state
        atoms = torch.cat([state.batch.positions, state.velocities, state.forces], dim=1)  # [N, 9]
        self._waiting.append((record.time, atoms, state.energy, record.active))
        if len(self._waiting) >= self._at_once:
            self.flush()

    def flush(self) -> None:
        """Append the frames in memory to the files."""
        if not self._has_begun:
            self._has_begun = True
            self._begin()
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        times = [time for time, *_ in waiting]
        atoms = torch.stack([a for _, a, _, _ in waiting]).cpu().double().numpy()  # [n_records, N, 9]
        energy = torch.stack([e for _, _, e, _ in waiting]).cpu().tolist()
        active = torch.stack([a for *_, a in waiting]).cpu().numpy()
        for replica in range(len(self.numbers)):
            rows = atoms[:, self._first[replica] : self._first[replica + 1]]
            frames = [
                Frame(times[i], rows[i, :, :3], rows[i, :, 3:6], rows[i, :, 6:], energy[i][replica])
                for i in np.flatnonzero(active[:, replica])
            ]
            if frames:
                self._append(replica, frames)

    @abstractmethod
    def _begin(self) -> None:
        """Create empty files; replace old ones."""

    @abstractmethod
    def _append(self, replica: int, frames: Sequence[Frame]) -> None:
        """Append frames of a replica."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remove the frames written after ``state``."""
        self._has_begun = True
        self._cut(state)

    @abstractmethod
    def _cut(self, state: Mapping[str, Any]) -> None:
        """Remove the frames written after ``state``."""

    def atoms(self, replica: int, frame: Frame) -> Atoms:
        """Return a frame as ``ase.Atoms``."""
        return to_atoms(self.numbers[replica], frame, replica)


def to_atoms(numbers: np.ndarray, frame: Frame, replica: int) -> Atoms:
    """Return a frame as ``ase.Atoms``, with velocities in ASE's units and a calculator that holds energy and forces."""
    atoms = Atoms(numbers=numbers, positions=frame.positions)
    atoms.set_velocities(frame.velocities / ase.units.fs)
    atoms.info |= {"time_ps": round(frame.time / 1000, 9), "replica": replica}
    atoms.calc = SinglePointCalculator(atoms, energy=frame.energy, forces=frame.forces)
    return atoms


class ExtxyzFrames(FrameWriter):
    """One extended XYZ file for each replica."""

    def _path(self, replica: int) -> Path:
        return self.directory / f"{replica_name(replica)}.extxyz"

    def _begin(self) -> None:
        for replica in range(len(self.numbers)):
            self._path(replica).write_bytes(b"")

    def _append(self, replica: int, frames: Sequence[Frame]) -> None:
        with open(self._path(replica), "a", encoding="utf-8") as file:
            write_xyz(file, [self.atoms(replica, frame) for frame in frames])

    def state_dict(self) -> dict[str, Any]:
        """Return the sizes of the files."""
        return {"sizes": [self._path(replica).stat().st_size for replica in range(len(self.numbers))]}

    def _cut(self, state: Mapping[str, Any]) -> None:
        for replica, size in enumerate(state["sizes"]):
            cut_file(self._path(replica), size)


class TrajFrames(FrameWriter):
    """One ASE trajectory for each replica."""

    def __init__(self, directory: Path, start: Batch) -> None:
        super().__init__(directory, start)
        self.counts = [0] * len(self.numbers)

    def _path(self, replica: int) -> Path:
        return self.directory / f"{replica_name(replica)}.traj"

    def _begin(self) -> None:
        for replica in range(len(self.numbers)):
            with TrajectoryWriter(self._path(replica), "w"):
                pass

    def _append(self, replica: int, frames: Sequence[Frame]) -> None:
        with TrajectoryWriter(self._path(replica), "a") as file:
            for frame in frames:
                file.write(self.atoms(replica, frame))
        self.counts[replica] += len(frames)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of frames in each file."""
        return {"counts": list(self.counts)}

    def _cut(self, state: Mapping[str, Any]) -> None:
        # ASE cannot remove frames from a file: write it again.
        self.counts = list(state["counts"])
        for replica, count in enumerate(self.counts):
            path = self._path(replica)
            with TrajectoryReader(path) as old:
                if len(old) < count:
                    raise ValueError(
                        f"{path} has {len(old)} frames, fewer than the {count} of the saved state; cannot resume"
                    )
                if len(old) == count:
                    continue
                with replacing(path) as temporary, TrajectoryWriter(temporary, "w") as new:
                    for i in range(count):
                        new.write(old[i])


class Hdf5Frames(FrameWriter):
    """One HDF5 file with a group for each replica."""

    ARRAYS = ("positions", "velocities", "forces", "energy", "time")

    def __init__(self, directory: Path, start: Batch) -> None:
        super().__init__(directory, start)
        _h5py()
        self.path = directory / HDF5_FILE
        self._float = str(start.positions.dtype).removeprefix("torch.")
        self.counts = [0] * len(self.numbers)

    def _begin(self) -> None:
        with _h5py().File(self.path, "w") as file:
            file.attrs["units"] = "Angstrom, Angstrom/fs, eV/Angstrom, eV, fs"
            for replica, numbers in enumerate(self.numbers):
                group = file.create_group(replica_name(replica))
                group["atomic_numbers"] = numbers
                for name in self.ARRAYS:
                    shape = (len(numbers), 3) if name in ("positions", "velocities", "forces") else ()
                    kind = "float64" if name in ("energy", "time") else self._float
                    group.create_dataset(name, (0, *shape), kind, maxshape=(None, *shape), chunks=(64, *shape))

    def _append(self, replica: int, frames: Sequence[Frame]) -> None:
        with _h5py().File(self.path, "r+") as file:
            group, count = file[replica_name(replica)], self.counts[replica]
            for name in self.ARRAYS:
                group[name].resize(count + len(frames), axis=0)
                group[name][count:] = np.stack([np.asarray(getattr(frame, name)) for frame in frames])
            self.counts[replica] += len(frames)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of frames of each replica."""
        return {"counts": list(self.counts)}

    def _cut(self, state: Mapping[str, Any]) -> None:
        self.counts = list(state["counts"])
        with _h5py().File(self.path, "r+") as file:
            for replica, count in enumerate(self.counts):
                for name in self.ARRAYS:
                    array = file[replica_name(replica)][name]
                    if len(array) < count:
                        raise ValueError(
                            f"{self.path}: {array.name} has {len(array)} frames, fewer than the {count} saved; "
                            "cannot resume"
                        )
                    array.resize(count, axis=0)


def _h5py() -> Any:
    return optional_module("h5py", "hdf5", "writing HDF5")


class BadFrames(Observer):
    """Writes the frame in which a replica failed, with the reason, as extended XYZ.

    If its positions are not finite, it writes the frame one step before, marked ``is_step_before``.
    """

    def __init__(self, path: Path, start: Batch) -> None:
        self.path = path
        self.numbers = torch.split(start.atomic_numbers.cpu(), start.atoms_per_molecule.tolist())
        self._size = 0

    def observe(self, record: Record) -> None:
        """Ignore the record: other observers write frames."""

    def failed(self, failures: Sequence[Failure], bad: MDState, before: MDState) -> None:
        """Append the frames of the failures."""
        with open(self.path, "a" if self._size else "w", encoding="utf-8") as file:
            for failure in failures:
                mine = bad.batch.molecule == failure.molecule
                finite = bool(torch.isfinite(bad.batch.positions[mine]).all())
                state = bad if finite else before
                positions, velocities, forces = (
                    x[mine].cpu().double().numpy() for x in (state.batch.positions, state.velocities, state.forces)
                )
                frame = Frame(failure.time, positions, velocities, forces, float(state.energy[failure.molecule]))
                atoms = to_atoms(self.numbers[failure.molecule].numpy(), frame, failure.molecule)
                atoms.info |= {"reason": failure.reason, "step": failure.step, "is_step_before": not finite}
                write_xyz(file, [atoms])
            self._size = file.tell()

    def state_dict(self) -> dict[str, Any]:
        """Return the size of the file."""
        return {"size": self._size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remove the frames written after ``state``."""
        self._size = cut_file(self.path, state["size"]) if state["size"] else 0
