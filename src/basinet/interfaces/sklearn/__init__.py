"""Models inside scikit-learn: SMILES in, features or a property out.

::

    features = make_pipeline(Embedder("pretrained.safetensors", cache="features.sqlite"), RidgeCV())
    cross_val_score(features, smiles, y)
"""

from basinet.interfaces.sklearn.base import FailedMoleculesWarning
from basinet.interfaces.sklearn.embedder import Embedder
from basinet.interfaces.sklearn.regressor import Regressor

__all__ = ["FailedMoleculesWarning", "Embedder", "Regressor"]
