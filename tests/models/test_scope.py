"""What a model knows of its own limits."""

import pytest

from basinet.models.scope import ANYTHING, OutsideScopeError, Scope
from molecules import AMMONIUM, BENZENE, ETHANOL, HELIUM, METHANE

KNOWN = Scope(frozenset({1, 6, 7, 8}), "GFN2-xTB", frozenset({0}), (3, 9))


def reasons(scope: Scope, molecule: object) -> list[str]:
    return scope.outside(molecule.atomic_numbers, molecule.charge)  # type: ignore[attr-defined]


def test_a_molecule_like_those_in_training_is_inside() -> None:
    for molecule in (METHANE, ETHANOL):
        assert reasons(KNOWN, molecule) == []
        KNOWN.check_molecule(molecule)


def test_each_way_of_being_unlike_is_named() -> None:
    assert reasons(KNOWN, AMMONIUM) == ["charge +1, the model knows 0"]
    assert reasons(KNOWN, BENZENE) == ["12 atoms, the model knows 3 to 9"]
    assert reasons(KNOWN, HELIUM) == ["elements He, the model knows H C N O", "1 atoms, the model knows 3 to 9"]


def test_the_error_says_what_to_type() -> None:
    with pytest.raises(OutsideScopeError, match="NH4.* is outside .*: charge .1, .*outside-scope warn"):
        KNOWN.check_molecule(AMMONIUM)


def test_an_untrained_model_refuses_nothing_and_an_old_file_only_elements() -> None:
    assert reasons(ANYTHING, AMMONIUM) == []
    assert reasons(Scope(frozenset({1, 7}), ""), AMMONIUM) == []
    assert reasons(Scope(frozenset({1, 6}), ""), AMMONIUM) == ["elements N, the model knows H C"]


def test_further_training_widens_what_is_known_and_keeps_what_is_unknown_unknown() -> None:
    fresh = ANYTHING.extended([1, 6], [0], (5, 9))
    assert fresh == Scope(frozenset({1, 6}), "", frozenset({0}), (5, 9))
    wider = fresh.extended([8], [1], (3, 7))
    assert wider == Scope(frozenset({1, 6, 8}), "", frozenset({0, 1}), (3, 9))
    old = Scope(frozenset({1}), "").extended([], [1], (3, 7))
    assert (old.charges, old.sizes) == (frozenset(), None)
