"""Models inside scikit-learn: SMILES in, features or a property out.

::

    features = make_pipeline(MoleculeEmbedder("pretrained.safetensors", cache="features.sqlite"), RidgeCV())
    cross_val_score(features, smiles, y)
"""

from basinet.interfaces.sklearn.base import FailedMoleculesWarning
from basinet.interfaces.sklearn.embedder import MoleculeEmbedder
from basinet.interfaces.sklearn.regressor import PropertyRegressor

__all__ = ["FailedMoleculesWarning", "MoleculeEmbedder", "PropertyRegressor"]
