"""Names of devices: those that users type work, or are refused in one line."""

import pytest
import torch

from basinet.devices import resolve_device


@pytest.mark.parametrize("name", ["cpu", "CPU", "cpu:0", torch.device("cpu")])
def test_the_cpu_has_several_names(name):
    assert resolve_device(name) == "cpu"


@pytest.mark.parametrize("name", ["mps", "xpu", "cuda:a", "cuda:-1", "tpu", "", "cuda0", "gpu 0"])
def test_a_device_that_there_is_not_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=r"got the device .*; expected cpu"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "gpu", "gpu:1"])
def test_a_gpu_that_there_is_not_is_refused(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device here"):
        resolve_device(name)


def test_a_gpu_is_known_by_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device(name) for name in ("gpu", "cuda", "gpu:1", "cuda:0")] == ["cuda", "cuda", "cuda:1", "cuda:0"]
    with pytest.raises(ValueError, match="there are 2 GPUs here; expected cuda:0 to cuda:1"):
        resolve_device("cuda:2")
