import pytest

from basinet.data.filtering import without_listed
from basinet.data.molecules import canonical, compound

L_ALANINE, D_ALANINE, ALANINE = "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "CC(N)C(=O)O"


def test_a_molecule_is_found_however_it_is_written() -> None:
    for written in ("CCO", "OCC", "C(O)C", "[CH3][CH2][OH]", "[H]OC([H])([H])C([H])([H])[H]"):
        for same in (compound, canonical):
            assert without_listed([written, "C"], ["OCC"], same).kept.tolist() == [1], written


def test_stereoisomers_are_one_molecule_or_two_as_one_asks() -> None:
    records = [L_ALANINE, D_ALANINE, ALANINE]
    assert without_listed(records, [L_ALANINE], compound).kept.tolist() == []
    assert without_listed(records, [L_ALANINE], canonical).kept.tolist() == [1, 2]
    assert without_listed(records, ["N[C@@H](C)C(O)=O"], canonical).kept.tolist() == [1, 2]


def test_molecules_that_are_not_on_the_list_stay_in_their_order() -> None:
    found = without_listed(["C", "N", "C", "O"], ["O", "F"])
    assert found.kept.tolist() == [0, 1, 2]
    assert without_listed(["C", "N"], []).kept.tolist() == [0, 1]
    assert without_listed([], ["C"]).kept.tolist() == []


def test_what_was_left_out_is_counted_by_reason() -> None:
    records = ["CCO", "OCC", "C", "", "not a molecule", "N", ""]
    found = without_listed(records, ["CCO", "C(C)O", "CCCCCC"])
    assert found.kept.tolist() == [2, 5]
    assert found.n_unknown == {"no SMILES": 2, "SMILES does not parse": 1}
    assert str(found) == (
        "2 of 7 records kept; 2 left out as 1 of 2 listed molecules, 1 left out (SMILES does not parse), "
        "2 left out (no SMILES)"
    )


def test_conformers_of_one_molecule_are_looked_up_once() -> None:
    calls: list[str] = []

    def counted(smiles: str) -> str:
        calls.append(smiles)
        return compound(smiles)

    assert len(without_listed(["CCO"] * 100 + ["C"] * 100, ["CCO"], counted).kept) == 100
    assert calls == ["CCO", "CCO", "C"]


def test_lines_of_the_list_that_do_not_parse_are_counted_and_records_like_them_do_not_pass() -> None:
    impossible = "O=C([O])C1=CC[NH2]C1"
    found = without_listed(["C", impossible, "CCO"], ["CCO", impossible])
    assert found.kept.tolist() == [0]
    assert str(found) == (
        "1 of 3 records kept; 1 left out as 1 of 1 listed molecules, 1 left out (SMILES does not parse); "
        "1 lines of the list do not parse"
    )


def test_a_list_of_something_else_is_refused() -> None:
    with pytest.raises(
        ValueError, match="nothing on the list parses; it begins with 'ethanol', expected SMILES such as"
    ):
        without_listed(["C"], ["ethanol", "benzene"])
