"""Energy-based equivariant networks for 3D molecules: pre-train, fine-tune, run.

::

    import basinet

    model = basinet.load("model.safetensors")
    water = basinet.Molecule.from_smiles("O")
    print(basinet.predict(model, water).energy)  # eV

Names are imported when they are first used, so that ``import basinet`` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from basinet.interfaces.answers import Prediction, Predictions, embed, evaluate, predict
    from basinet.interfaces.ase import Calculator
    from basinet.interfaces.models import load
    from basinet.interfaces.molecules import read
    from basinet.interfaces.runs import certify, compare, finetune, pretrain, simulate
    from basinet.interfaces.sklearn import Embedder, Regressor
    from basinet.interfaces.torchsim import torchsim_model
    from basinet.models.committee import Committee
    from basinet.models.model import Model
    from basinet.structures import Batch, Molecule

__all__ = [
    "Batch",
    "Calculator",
    "Committee",
    "Embedder",
    "Model",
    "Molecule",
    "Prediction",
    "Predictions",
    "Regressor",
    "__version__",
    "certify",
    "compare",
    "embed",
    "evaluate",
    "finetune",
    "load",
    "predict",
    "pretrain",
    "read",
    "simulate",
    "torchsim_model",
]

_MODULES = {
    "Batch": "structures",
    "Calculator": "interfaces.ase",
    "Committee": "models.committee",
    "Embedder": "interfaces.sklearn",
    "Model": "models.model",
    "Molecule": "structures",
    "Prediction": "interfaces.answers",
    "Predictions": "interfaces.answers",
    "Regressor": "interfaces.sklearn",
    "certify": "interfaces.runs",
    "compare": "interfaces.runs",
    "embed": "interfaces.answers",
    "evaluate": "interfaces.answers",
    "finetune": "interfaces.runs",
    "load": "interfaces.models",
    "predict": "interfaces.answers",
    "pretrain": "interfaces.runs",
    "read": "interfaces.molecules",
    "simulate": "interfaces.runs",
    "torchsim_model": "interfaces.torchsim",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'basinet' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"basinet.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
