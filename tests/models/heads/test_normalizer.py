import pytest
import torch

from basinet.models.heads.noise import RunningNormalizer


def test_it_learns_the_deviation_and_mean_of_what_it_saw(generator: torch.Generator) -> None:
    normalizer = RunningNormalizer()
    noise = 0.04 * torch.randn(100_000, 3, generator=generator) + torch.tensor([0.0, 0.1, 0.0])
    for part in noise.split(999):
        normalizer.update(part)
    assert normalizer.deviation.tolist() == pytest.approx([0.04] * 3, rel=0.01)
    normalised = normalizer(noise.double())
    assert normalised.mean(0).tolist() == pytest.approx([0] * 3, abs=1e-10)
    assert normalised.std(0, correction=0).tolist() == pytest.approx([1] * 3, rel=1e-10)


def test_normalising_leaves_the_statistics_bit_identical(generator: torch.Generator) -> None:
    normalizer = RunningNormalizer().eval()
    normalizer.update(torch.randn(10, 3, generator=generator))
    before = {key: value.clone() for key, value in normalizer.state_dict().items()}
    normalizer(torch.randn(10, 3, generator=generator))
    assert all(torch.equal(value, before[key]) for key, value in normalizer.state_dict().items())


def test_before_it_has_seen_anything_it_changes_nothing(generator: torch.Generator) -> None:
    x = torch.randn(5, 3, generator=generator)
    normalizer = RunningNormalizer()
    assert torch.equal(normalizer(x), x)
    normalizer.update(x)
    normalizer.update(x[:0])
    assert not torch.equal(normalizer(x), x)
    normalizer.reset()
    assert torch.equal(normalizer(x), x)


def test_noise_that_never_varies_is_not_divided_by_zero() -> None:
    normalizer = RunningNormalizer()
    normalizer.update(torch.zeros(4, 3))
    assert bool(normalizer(torch.zeros(4, 3)).isfinite().all())


def test_the_result_has_the_dtype_of_the_input() -> None:
    normalizer = RunningNormalizer()
    normalizer.update(torch.ones(4, 3))
    assert normalizer(torch.ones(1, 3)).dtype == torch.float32
    assert normalizer(torch.ones(1, 3).double()).dtype == torch.float64
