"""Settings keep the limits in their types, made in Python or read from a file."""

import math
from typing import Literal

import pytest

from basinet.config import Count, NonNegative, Positive, read_settings, settings


@settings
class Bath:
    """A bath."""

    replicas: Count = 1
    """Replicas."""
    friction: Positive | Literal["none"] = 0.01
    """1/fs."""
    temperatures: tuple[NonNegative, ...] = (300.0,)
    """K."""

    def __post_init__(self) -> None:
        """Check."""
        if self.replicas == 13:
            raise ValueError("replicas: not 13")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"replicas": 0}, "replicas must be at least 1, got 0"),
        ({"friction": 0.0}, "friction must be positive, got 0.0"),
        ({"friction": math.inf}, "friction must be finite, got inf"),
        ({"friction": math.nan}, "friction must be positive, got nan"),
        ({"temperatures": (1.0, -1.0)}, "temperatures must be at least 0, got -1.0"),
        ({"replicas": 0, "friction": -1.0}, "replicas must be at least 1, got 0; friction must be positive, got -1.0"),
        ({"replicas": 13}, "not 13"),
    ],
)
def test_limits_hold_in_python(given, problem):
    with pytest.raises(ValueError, match=problem):
        Bath(**given)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"replicas": 0}, "replicas must be at least 1, got 0"),
        ({"temperatures": [1.0, -1.0]}, r"temperatures.1 must be at least 0, got -1.0"),
        ({"replicas": 13}, "not 13"),
    ],
)
def test_limits_hold_in_files(given, problem):
    with pytest.raises(ValueError, match=problem):
        read_settings(Bath, given, "bath.yaml")


def test_values_within_limits_are_taken():
    made = Bath(replicas=2, friction="none", temperatures=(0.0, 1.0))
    assert read_settings(Bath, {"replicas": 2, "friction": "none", "temperatures": [0, 1]}, "bath.yaml") == made
