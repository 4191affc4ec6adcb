"""Build heads other than properties."""

from basinet.backbones.base import Backbone
from basinet.models.heads.base import Head, HeadKind
from basinet.models.heads.distance import DistanceScoreHead
from basinet.models.heads.noise import NoiseHead
from basinet.models.heads.noise_level import PooledNoiseLevelHead, SharedNoiseLevelHead


def build_head(kind: HeadKind, backbone: Backbone) -> Head:
    """Return a fresh head on the device and in the dtype of a backbone.

    Raises:
        ValueError: the head needs vector features and the backbone has none.
    """
    return _head(kind, backbone).to(next(backbone.parameters()))


def _head(kind: HeadKind, backbone: Backbone) -> Head:
    match kind:
        case "noise":
            if backbone.n_vector == 0:
                raise ValueError(
                    f"{type(backbone).__name__} has no vector features, and the noise head needs them; choose an "
                    "objective with energies and forces only, or a backbone with vector features"
                )
            return NoiseHead(backbone.n_scalar, backbone.n_vector)
        case "distance_score":
            return DistanceScoreHead(backbone.n_scalar)
        case "noise_level":
            return SharedNoiseLevelHead(backbone.n_scalar)
        case "pooled_noise_level":
            return PooledNoiseLevelHead(backbone.n_scalar)
