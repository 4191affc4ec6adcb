import pytest

from basinet.data.chemistry.compounds import compounds
from basinet.data.generation import molecule_list
from basinet.data.generation.molecule_list import Entry, choose
from molecules import packaged_smiles

pytest.importorskip("rdkit")


def written(tmp_path, content):
    path = tmp_path / "list.smi"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def entries(path, excluded=(), n_molecules=None):
    chosen = choose(path, compounds(excluded), n_molecules, processes=1)
    return list(chosen.entries(0, len(chosen))), list(chosen.left_out(0, len(chosen)))


def test_a_file_has_one_smiles_per_line_with_names_and_comments(tmp_path):
    chosen, left_out = entries(written(tmp_path, "\ufeff# mine\r\nCCO ethanol\r\n\n  O\twater\nnonsense \xe9"))
    assert chosen == [Entry(0, "CCO"), Entry(1, "O"), Entry(2, "nonsense")]
    assert left_out == []


def test_bytes_that_are_no_text_are_entries_that_will_not_parse(tmp_path):
    chosen, _ = entries(written(tmp_path, b"CC\xff\x00O\nC"))
    assert [entry.place for entry in chosen] == [0, 1]
    assert chosen[1].smiles == "C"


def test_what_is_excluded_or_listed_before_is_left_out_and_places_do_not_change(tmp_path):
    path = written(tmp_path, "OCC\nC[C@H](F)Cl\nCCO\nO\nC(C)O\nN\n")
    chosen, left_out = entries(path, excluded=("CC(F)Cl",))
    assert chosen == [Entry(0, "OCC"), Entry(3, "O"), Entry(5, "N")]
    assert left_out == [
        (Entry(1, "C[C@H](F)Cl"), "excluded"), (Entry(2, "CCO"), "listed before"), (Entry(4, "C(C)O"), "listed before")
    ]  # fmt: skip


def test_what_is_left_out_belongs_to_the_molecules_around_it(tmp_path):
    chosen = choose(written(tmp_path, "C\nC\nO\nO\nN\nN\n"), frozenset(), None, processes=1)
    parts = [[entry.place for entry, _ in chosen.left_out(i, i + 1)] for i in range(3)]
    assert parts == [[1], [3], [5]]


@pytest.mark.parametrize("n_molecules", [1, 2, 3, 7])
def test_the_first_so_many_are_those_of_the_whole_list(tmp_path, n_molecules):
    path = written(tmp_path, "C\nC\nO\nO\nN\nN\n")
    chosen, left_out = entries(path, n_molecules=n_molecules)
    assert [entry.smiles for entry in chosen] == ["C", "O", "N"][:n_molecules]
    assert len(left_out) == (n_molecules - 1 if n_molecules <= 3 else 3)  # those before the last that is treated


@pytest.mark.parametrize("n_molecules", [None, 150])
def test_a_list_read_in_many_blocks_by_processes_is_the_same(tmp_path, monkeypatch, n_molecules):
    path = written(tmp_path, "\n".join(["", *packaged_smiles()[:200], *packaged_smiles()[100:300]]))
    once = choose(path, compounds(["CNC=O"]), n_molecules, processes=1)
    monkeypatch.setattr(molecule_list, "BLOCK", 500)
    again = choose(path, compounds(["CNC=O"]), n_molecules, processes=2)
    assert again.sha256 == once.sha256
    assert list(again.entries(0, len(again))) == list(once.entries(0, len(once)))
    assert list(again.left_out(0, len(again))) == list(once.left_out(0, len(once)))
    assert len(once) == (n_molecules or 299)


def test_the_hash_is_of_the_molecules_and_not_of_their_text(tmp_path):
    def hashed(text):
        return choose(written(tmp_path, text), frozenset(), None, processes=1).sha256

    assert hashed("OCC\nC\n") == hashed("# ethanol\nCCO\nC methane")
    assert hashed("CCO\nC\n") != hashed("C\nCCO\n")


def test_a_list_without_molecules_is_an_error(tmp_path):
    for text in ("", "# nothing\n", "\n\n"):
        with pytest.raises(ValueError, match="no molecules, expected one SMILES per line"):
            choose(written(tmp_path, text), frozenset(), None, processes=1)
    with pytest.raises(ValueError, match=r"no molecules to treat: \{'excluded': 2\}"):
        choose(written(tmp_path, "CCO\nOCC"), compounds(["CCO"]), None, processes=1)


def test_a_file_that_is_no_list_is_refused_without_reading_it_all(tmp_path):
    path = written(tmp_path, b"x" * (molecule_list.BLOCK + 2 * molecule_list.LONGEST_LINE))
    with pytest.raises(ValueError, match="a line of more than 65536 bytes; expected one SMILES per line"):
        choose(path, frozenset(), None, processes=1)


def test_a_list_that_is_cut_while_it_is_used_is_an_error(tmp_path):
    path = written(tmp_path, "C\nO\nN\n")
    chosen = choose(path, frozenset(), None, processes=1)
    path.write_text("C\n")
    with pytest.raises(ValueError, match="was truncated while it was read"):
        list(chosen.entries(0, 3))
