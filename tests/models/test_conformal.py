"""Split-conformal intervals: the finite-sample quantile, its coverage, and ensembles in one file."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom

from basinet.models.checkpoint import load_ensemble, load_model, save_model
from basinet.models.committee import joined
from basinet.models.conformal import Calibration, calibrate, smallest_calibration
from basinet.models.heads.property import PropertyForm, build_property_head
from basinet.models.model import Model
from basinet.structures.batch import collate
from molecules import ETHANOL, METHANE, WATER
from small_runs import TINY, differences, tiny_model


def members(n: int) -> list[Model]:
    found = []
    for seed in range(n):
        model = tiny_model(seed=seed)
        head = build_property_head(PropertyForm("mean", "1"), model.backbone)
        found.append(Model(model.backbone, {"y": head}).eval())
    return found


@pytest.mark.parametrize(
    ("n", "coverage", "rank"), [(9, 0.9, 9), (99, 0.9, 90), (10, 0.9, 10), (4, 0.5, 3), (19, 0.95, 19)]
)
def test_the_quantile_is_the_score_of_rank_n_plus_1_times_coverage(n: int, coverage: float, rank: int) -> None:
    calibration = Calibration(torch.arange(1, n + 1).double(), None)
    assert calibration.quantile(coverage) == rank


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_too_few_scores_give_an_infinite_interval_and_one_more_a_finite_one(coverage: float) -> None:
    n = smallest_calibration(coverage)
    assert math.isfinite(Calibration(torch.ones(n).double(), None).quantile(coverage))
    assert math.isinf(Calibration(torch.ones(n - 1).double(), None).quantile(coverage))
    assert math.isinf(Calibration(torch.ones(0).double(), None).quantile(coverage))


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, float("nan")])
def test_a_coverage_that_is_no_probability_is_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Calibration(torch.ones(9).double(), None).quantile(coverage)


@pytest.mark.parametrize("normalised", [False, True])
def test_intervals_hold_as_many_new_labels_as_promised(normalised: bool) -> None:
    """Over many draws of calibration and test, errors of unequal sizes: marginal coverage within binomial error."""
    generator = torch.Generator().manual_seed(3)
    n, coverage, draws = 19, 0.8, 4000
    inside = 0
    for _ in range(draws):
        size = torch.rand(n + 1, generator=generator, dtype=torch.float64) * 3 + 0.1
        labels = torch.randn(n + 1, generator=generator, dtype=torch.float64) * size
        values, deviation = torch.zeros_like(labels), size if normalised else None
        found = calibrate(values[:n], labels[:n], None if deviation is None else deviation[:n], 1.0)
        radius = found.radius(None if deviation is None else deviation[n:], 1, coverage)
        inside += bool(labels[n].abs() <= radius[0])
    # n + 1 = 20 and 0.8 * 20 is whole: the coverage is 0.8 exactly.
    low, high = binom.interval(0.9999, draws, coverage)
    assert low <= inside <= high


def test_an_interval_with_an_ensemble_grows_with_its_disagreement() -> None:
    found = calibrate(torch.zeros(9), torch.ones(9), torch.ones(9), spread=2.0)
    radius = found.radius(torch.tensor([0.0, 1.0, 3.0]), 3, 0.9)
    assert radius.tolist() == pytest.approx([0.1 / 1.1, 1.0, 3.1 / 1.1])
    with pytest.raises(ValueError, match="need the deviation"):
        found.radius(None, 3, 0.9)


def test_an_ensemble_comes_back_from_one_file_with_its_calibration(tmp_path: Path) -> None:
    path, several = tmp_path / "m.safetensors", members(3)
    calibration = {"y": Calibration(torch.tensor([0.1, 0.2], dtype=torch.float64), 0.05)}
    save_model(several[0], path, TINY, {"a": 1}, further=several[1:], calibration=calibration)
    file = load_ensemble(path)
    assert len(file.members) == 3 and file.metadata == {"a": 1}
    for before, after in zip(several, file.members, strict=True):
        assert not differences(before.state_dict(), after.state_dict())
    assert file.calibration["y"].floor == 0.05 and torch.equal(file.calibration["y"].scores, calibration["y"].scores)
    assert not differences(load_model(path).model.state_dict(), several[0].state_dict())


def test_a_plain_file_is_an_ensemble_of_one(tmp_path: Path) -> None:
    save_model(members(1)[0], tmp_path / "m.safetensors", TINY)
    file = load_ensemble(tmp_path / "m.safetensors")
    assert len(file.members) == 1 and not file.calibration


def test_members_with_other_heads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must have the same heads"):
        save_model(members(1)[0], tmp_path / "m.safetensors", TINY, further=[tiny_model()])


def test_answers_average_conformers_first_and_members_then() -> None:
    values = torch.tensor([[1.0, 3.0, 5.0], [2.0, 2.0, 9.0]], dtype=torch.float64)
    found = joined(values, torch.tensor([0, 0, 1]), 2)
    assert found.value.tolist() == [2.0, 7.0]
    assert found.deviation is not None
    assert found.deviation.tolist() == pytest.approx([0.0, np.std([5, 9], ddof=1)])
    assert joined(values[:1], torch.tensor([0, 0, 1]), 2).deviation is None


def test_an_ensemble_answers_with_the_mean_of_its_members() -> None:
    several = members(3)
    batch = collate([ETHANOL, WATER, METHANE])
    each = torch.stack([m(batch, ["y"])["y"] for m in several]).detach()
    found = joined(each, torch.tensor([0, 1, 1]), 2)
    assert found.value[0] == pytest.approx(float(each[:, 0].mean()))
    assert found.value[1] == pytest.approx(float(each[:, 1:].mean()))
