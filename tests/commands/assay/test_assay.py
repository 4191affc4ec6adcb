"""Tables of SMILES and numbers: columns, repeated compounds, scaffolds, times; and what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest

from basinet.commands.assay.table import read_assay
from basinet.data.chemistry.compounds import ConformerTask, canonical_compound, conformer_sets, conformers
from basinet.data.chemistry.conformers import GenerationError
from basinet.data.chemistry.scaffolds import murcko_scaffold, random_parts, scaffold_groups, scaffold_parts, time_parts
from basinet.data.files.table import column_names, read_rows
from basinet.structures import StructureError

FRACTIONS = (0.7, 0.1, 0.1, 0.1)


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_rows_of_one_compound_become_one_label_and_every_row_is_accounted_for(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv",
        "Name,SMILES,pIC50\na,CCO,5\nb,OCC,7\nc,C(O)C,6.5\nd,CC,\ne,C1CC,3\nf,CCN,4\ng,CCN,4\nh,CCN.Cl,1\n",
    )
    found = read_assay(path, "pIC50", None)
    assert found.smiles == ["CCO", "CCN"] and found.labels.tolist() == [6.5, 4.0]
    assert (found.n_repeated, found.n_differing, found.largest_difference) == (2, 1, ("CCO", 2.0))
    assert found.dropped() == {"no pIC50": 1, "SMILES: does not parse": 1, "SMILES: more than one molecule": 1}
    assert [row.number for row in found.rows if not row.reason] == [0, 1, 2, 5, 6]
    assert read_assay(path, "pIC50", "SMILES", duplicates="mean").labels[0] == pytest.approx(18.5 / 3)
    dropped = read_assay(path, "pIC50", None, duplicates="drop")
    assert dropped.smiles == ["CCN"] and dropped.dropped()["labels of the compound differ"] == 3
    salted = read_assay(path, "pIC50", None, fragments="largest")
    assert salted.labels[salted.smiles.index("CCN")] == 4.0 and salted.n_differing == 2


@pytest.mark.parametrize(
    ("text", "target", "smiles", "message"),
    [
        ("smiles,y\nC,1\n", "z", None, r"no column 'z'; the columns are: smiles, y; name the right one with target="),
        ("structure,y\nC,1\n", "y", None, r"no column 'smiles'; the columns are: structure, y; .* with smiles="),
        ("smiles;y\nC;1\n", "y", None, r"separated by ; or tabs"),
        ("smiles,y\nC,>10\nCC,2\nO,high\n", "y", None, r"row 0 has '>10', row 2 has 'high'"),
        ("smiles,y\nC,inf\n", "y", None, r"row 0 has 'inf'"),
        ("smiles,y\n" + "C,x\n" * 9, "y", None, r"row 4 has 'x' and 4 more"),
        ("smiles,y,y\nC,1,2\n", "y", None, r"the column 'y' is there 2 times"),
        ("smiles,y\nC,1,2\n", "y", None, r"a.csv:0: has 3 cells, expected 2"),
        ("smiles,y\nC,\n", "y", None, r"no row of 1 has a compound and a label \(1 no y\)"),
        ("smiles,y\n", "y", None, r"no row of 0"),
        ("", "y", None, r"the file is empty"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(
    text: str, target: str, smiles: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises((StructureError, ValueError), match=message):
        read_assay(table(tmp_path / "a.csv", text), target, smiles)


def test_times_are_dates_or_numbers_and_the_latest_row_of_a_compound_counts(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "smiles,y,when\nC,1,2020-01-01\nCC,2,2019-05-01\nC,3,2021-06-01T12:00:00\n")
    times = read_assay(path, "y", None, time="when").times
    assert times[0] > times[1] > 0
    bad = table(tmp_path / "b.csv", "smiles,y,when\nC,1,yesterday\n")
    with pytest.raises(StructureError, match="must hold dates as 2024-05-31, or numbers; row 0 has 'yesterday'"):
        read_assay(bad, "y", None, time="when")


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"smiles": ["C", "CC"], "y": [1.5, None]}), tmp_path / "a.parquet")
    assert column_names(tmp_path / "a.parquet") == ["smiles", "y"]
    assert list(read_rows(tmp_path / "a.parquet")) == [{"smiles": "C", "y": "1.5"}, {"smiles": "CC", "y": ""}]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not a table")
    with pytest.raises(StructureError, match="cannot be read as parquet"):
        column_names(tmp_path / "b.parquet")


def test_a_scaffold_is_the_rings_with_their_linkers() -> None:
    assert murcko_scaffold("CCO") == ""
    assert murcko_scaffold("Cc1ccccc1O") == "c1ccccc1"
    assert murcko_scaffold("CC(C)c1ccc(CCc2ccncc2C)cc1") == "c1ccc(CCc2ccncc2)cc1"


def test_large_scaffolds_train_and_rare_ones_are_tested_whatever_the_order() -> None:
    smiles = [f"{'C' * k}c1ccccc1" for k in range(1, 71)] + [f"{'C' * k}C1CC1" for k in range(1, 11)]
    smiles += [f"{'C' * k}c1ccncc1" for k in range(1, 11)] + [f"C{'C' * k}1CC1" for k in range(2, 12)]
    groups = scaffold_groups(smiles)
    assert [len(g) for g in groups] == sorted((len(g) for g in groups), reverse=True)
    parts = scaffold_parts(smiles, FRACTIONS)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(smiles)))
    assert len(parts[0]) == 70 and {murcko_scaffold(smiles[i]) for i in parts[0]} == {"c1ccccc1"}
    where = [{murcko_scaffold(smiles[i]) for i in part} for part in parts]
    assert all(not a & b for i, a in enumerate(where) for b in where[:i])
    assert all(np.array_equal(a, b) for a, b in zip(parts, scaffold_parts(smiles, FRACTIONS), strict=True))


@pytest.mark.parametrize("n", [4, 10, 53])
def test_random_and_time_parts_are_disjoint_and_complete(n: int) -> None:
    times = np.random.default_rng(0).normal(size=n)
    for parts in (random_parts(n, FRACTIONS, 1), time_parts(times, FRACTIONS)):
        assert sorted(np.concatenate(parts).tolist()) == list(range(n))
        assert all(len(part) for part in parts)
    assert times[parts[0]].max() < min(times[part].min() for part in parts[1:])
    assert not np.array_equal(random_parts(53, FRACTIONS, 1)[0], random_parts(53, FRACTIONS, 2)[0])


@pytest.mark.parametrize(
    ("smiles", "reason"), [("", "no SMILES"), ("C1C", "does not parse"), ("C.O", "more than one"), ("C" * 201, "200")]
)
def test_what_is_no_compound_has_a_reason(smiles: str, reason: str) -> None:
    with pytest.raises(GenerationError, match=reason):
        canonical_compound(smiles)


def test_spellings_of_a_compound_are_one_and_isomers_are_two() -> None:
    assert len({canonical_compound(s) for s in ("C(O)C", "OCC", "[CH3]CO", "[H]OCC")}) == 1
    assert canonical_compound("C/C=C/C") != canonical_compound("C/C=C\\C")
    assert canonical_compound("CCN.Cl", "largest") == "CCN"
    assert canonical_compound("[NH4+]") == "[NH4+]" and canonical_compound("[H][H]") == "[H][H]"


def test_conformers_depend_on_the_compound_alone_and_processes_change_nothing() -> None:
    tasks = [ConformerTask(s, 2, 0) for s in ("CCCO", "C*", "[He]", "CCN")]
    one, two = (list(conformer_sets(tasks, processes)) for processes in (1, 2))
    assert isinstance(one[1], str) and "element" in one[1]
    for a, b in zip(one, two, strict=True):
        if isinstance(a, list) and isinstance(b, list):
            assert all(np.array_equal(x.positions, y.positions) for x, y in zip(a, b, strict=True))
    again = conformers(tasks[3])
    assert isinstance(again, list) and isinstance(one[3], list)
    assert np.array_equal(again[0].positions, one[3][0].positions)


def test_conformers_of_a_flexible_compound_differ_whatever_the_seed() -> None:
    for seed in (0, 1, 2**31 - 1):
        found = conformers(ConformerTask("OCCNCC(=O)CC", 4, seed))
        assert isinstance(found, list) and len(found) == 4
        assert not np.allclose(found[0].positions, found[1].positions, atol=0.1)
