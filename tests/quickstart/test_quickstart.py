"""The main job runs from SMILES to a report, and does nothing twice."""

import dataclasses
from pathlib import Path

import pytest

from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.commands.recipe import save_recipe
from basinet.quickstart import QuickstartConfig, quickstart
from basinet.quickstart.config import Job
from basinet.quickstart.stages import jobs_of, split_frames

pytest.importorskip("rdkit")
pytest.importorskip("tblite")

TINY = QuickstartConfig(
    smiles="CO",
    name="methanol",
    n_molecules=4,
    label_counts=(4, 8),
    n_validation=4,
    n_test=6,
    model=EquivariantTransformerConfig(n_features=8, n_layers=1, n_heads=2, n_basis=8),
    pretrain_steps=4,
    finetune_steps=4,
    dynamics_steps=10,
    replicas=2,
    processes=1,
)


def test_both_starts_see_the_same_labels_and_the_test_frames_are_of_another_trajectory(tmp_path: Path) -> None:
    from basinet.data.generation.trajectory import TrajectoryConfig, chain_of, trajectory
    from basinet.data.store.store import MoleculeStore

    wanted = TrajectoryConfig(smiles="CO", n_frames=32, n_chains=2, equilibration=5, stride=1, processes=1)
    frames = MoleculeStore.from_molecules(trajectory(wanted))
    scratch, pretrained = (split_frames(TINY, frames, Job(start, 8, 0)) for start in ("scratch", "pre-trained"))
    assert scratch == pretrained
    few = split_frames(TINY, frames, Job("scratch", 4, 0))
    assert (few.train == scratch.train[:4]).all()
    assert {chain_of(frames[int(i)]) for i in scratch.test} == {1}
    assert {chain_of(frames[int(i)]) for part in (scratch.train, scratch.validation) for i in part} == {0}


def test_jobs_pair_every_start_with_every_label_count_and_seed() -> None:
    assert len(jobs_of(TINY)) == 4
    assert len({job.directory(Path()) for job in jobs_of(TINY)}) == 4


def test_a_directory_of_other_sizes_is_refused(tmp_path: Path) -> None:
    save_recipe(TINY, tmp_path / "quickstart.yaml")
    with pytest.raises(ValueError, match="n_molecules was 4, now 5; choose another --out"):
        quickstart(dataclasses.replace(TINY, n_molecules=5, seeds=3), tmp_path)


@pytest.mark.slow
def test_a_tiny_quickstart_writes_its_report_and_is_not_done_twice(tmp_path: Path) -> None:
    report = quickstart(TINY, tmp_path / "q")
    text = report.read_text()
    assert "methanol" in text and "data:image/png;base64" in text
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "q").rglob("model.safetensors")}
    assert len(written) == 5
    quickstart(TINY, tmp_path / "q")
    assert {path: path.stat().st_mtime_ns for path in written} == written
