"""Use models in scikit-learn: features or a property from SMILES.

::

    features = make_pipeline(Embedder("pretrained.safetensors", cache="features.sqlite"), RidgeCV())
    cross_val_score(features, smiles, y)
"""

from basinet.interfaces.sklearn.base import FailedMoleculesWarning
from basinet.interfaces.sklearn.embedder import Embedder
from basinet.interfaces.sklearn.regressor import Regressor

__all__ = ["FailedMoleculesWarning", "Embedder", "Regressor"]
