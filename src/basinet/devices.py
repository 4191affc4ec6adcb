"""Names of the devices that models run on."""

import re

import torch

_NAME = re.compile(r"(cpu|cuda)(?::(\d+))?")


def resolve_device(name: str | torch.device) -> str:
    """Return the name that torch knows a device by: ``cpu``, ``cuda`` or ``cuda:1``; ``gpu`` is ``cuda``.

    Raises:
        ValueError: there is no such device here.
    """
    known = re.sub(r"^gpu", "cuda", str(name).strip().lower())
    if known.partition(":")[0] == "mps":
        raise ValueError(f"got the device {name}, which has no float64, and energies need it; expected cpu or cuda")
    match = _NAME.fullmatch(known)
    if match is None:
        raise ValueError(f"got the device {str(name)!r}; expected cpu, cuda, or one of several GPUs such as cuda:1")
    kind, number = match.groups()
    if kind == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise ValueError(f"no CUDA device here, got {name}; leave the device out to use the CPU")
    if number is not None and int(number) >= torch.cuda.device_count():
        raise ValueError(
            f"got the device {name}, and there are {torch.cuda.device_count()} GPUs here; expected cuda:0 to "
            f"cuda:{torch.cuda.device_count() - 1}"
        )
    return known
