"""The certificate as a command: table, card and exit code."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from basinet.backbones.equivariant_transformer import EquivariantTransformer, EquivariantTransformerConfig
from basinet.cli import app
from basinet.commands.certify import Certificate, certify, file_hash
from basinet.data.readers import write_extxyz
from basinet.evaluation.certificate import Check
from basinet.models.checkpoint import load_model, save_model
from basinet.models.scope import Scope
from molecules import AMMONIUM, ETHANOL, WATER
from small_runs import tiny_model

SOUND = EquivariantTransformerConfig(n_features=8, n_layers=1, n_heads=2, n_basis=8)
JUMPS = EquivariantTransformerConfig(n_features=8, n_layers=2, n_heads=2, n_basis=8, vector_cutoff=False)


def model_file(path: Path, config: EquivariantTransformerConfig = SOUND, scope: Scope | None = None) -> Path:
    model = tiny_model(config=config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    if scope is not None:
        model.scope = scope
    save_model(model, path, config)
    return path


def run(*arguments: str) -> tuple[int, str]:
    found = CliRunner(env={"COLUMNS": "120"}).invoke(app, ["certify", *arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.output


def test_a_sound_model_passes_and_has_a_card(tmp_path: Path) -> None:
    file = model_file(tmp_path / "m.safetensors")
    code, output = run(str(file))
    assert code == 0, output
    assert "passed; card: " in output.replace("\n", "")
    card = json.loads((tmp_path / "m.card.json").read_text())
    assert card["passed"] is True
    assert card["sha256"] == file_hash(file)
    assert len(card["molecules"]) == 6
    page = (tmp_path / "m.card.md").read_text()
    assert "| rotation | forces |" in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.card.json", "m.card.md", "m.safetensors"]


def test_a_model_that_jumps_is_not_passed_unless_the_threshold_allows_it(tmp_path: Path) -> None:
    file = model_file(tmp_path / "m.safetensors", JUMPS)
    code, output = run(str(file), "--out", str(tmp_path / "other.json"))
    assert code == 1
    assert "2 of 25 checks not passed" in output
    assert json.loads((tmp_path / "other.json").read_text())["passed"] is False
    assert run(str(file), "cutoff=100")[0] == 0


def test_own_molecules_are_those_the_model_knows(tmp_path: Path) -> None:
    file = model_file(tmp_path / "m.safetensors", scope=Scope(frozenset({1, 6, 8}), ""))
    write_extxyz(tmp_path / "mols.xyz", [(m, {}) for m in (ETHANOL, AMMONIUM, WATER)])
    assert certify(file, tmp_path / "mols.xyz").molecules == ["C2H6O", "H2O"]
    write_extxyz(tmp_path / "none.xyz", [(AMMONIUM, {})])
    with pytest.raises(ValueError, match="all molecules have elements unknown to the model"):
        certify(file, tmp_path / "none.xyz")
    helium = model_file(tmp_path / "he.safetensors", scope=Scope(frozenset({2}), ""))
    with pytest.raises(ValueError, match="the default molecules have elements unknown to the model"):
        certify(helium)


def test_every_member_of_an_ensemble_is_examined(tmp_path: Path) -> None:
    """The second member is too far off in float32; the first alone passes."""
    members = [load_model(model_file(tmp_path / f"{i}.safetensors")).model for i in range(3)]
    write_extxyz(tmp_path / "water.xyz", [(WATER, {})])
    with torch.no_grad():
        members[1].energy_scale.scale.mul_(3e4)
    file = tmp_path / "three.safetensors"
    save_model(members[0], file, SOUND, further=members[1:])
    limits = ["precision=1e-4", "--molecules", str(tmp_path / "water.xyz")]
    assert run(str(tmp_path / "0.safetensors"), *limits)[0] == 0
    code, output = run(str(file), *limits)
    assert code == 1
    lines = output.splitlines()
    assert "the worst of 3 members" in " ".join(output.split())
    assert "member 1: passed" in lines and "member 3: passed" in lines
    (second,) = (line for line in lines if line.startswith("member 2: "))
    assert "checks not passed" in second
    card = json.loads((tmp_path / "three.card.json").read_text())
    assert not card["passed"] and len(card["members"]) == 3
    for number, worst in enumerate(card["checks"]):
        of_members = [member["checks"][number] for member in card["members"]]
        assert worst in of_members
        assert worst["error"] == max((c["error"] for c in of_members if c["error"] is not None), default=None)
    faults = {check["name"] for check in card["checks"] if check["verdict"] == "fault"}
    assert "float32" in faults and faults <= {"float32", "kernels"}  # both compare float32 with float64
    page = (tmp_path / "three.card.md").read_text()
    assert page.count("| rotation | forces |") == 4 and "## Member 3: passed" in page


def test_the_worst_check_is_a_fault_then_what_was_not_measured_then_the_largest_error() -> None:
    fine, larger, over, broken, open_ = (
        Check("rotation", "forces", error, 1.0, "eV/Å") for error in (0.1, 0.2, 2.0, float("nan"), None)
    )
    for checks, worst, number in (
        ((fine, larger), larger, 2),
        ((larger, open_), open_, 2),
        ((over, open_, fine), over, 1),
        ((over, broken, open_), broken, 2),
    ):
        found = Certificate([[check] for check in checks], ["H2O"], "")
        assert found.checks == [worst] and found.worst_members == [number]
        assert found.passed is (worst.verdict != "fault")


def test_wrong_thresholds_are_refused(tmp_path: Path) -> None:
    file = str(model_file(tmp_path / "m.safetensors"))
    with pytest.raises(ValueError, match="unknown option symetry"):
        run(file, "symetry=1")
    with pytest.raises(ValueError, match="expected a threshold as key=value, got 'strict'"):
        run(file, "strict")
    with pytest.raises(FileNotFoundError, match="no model file"):
        run(str(tmp_path / "nothing.safetensors"))


def test_a_certificate_says_why_kernels_were_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "there is no C++ compiler"
    monkeypatch.setattr(EquivariantTransformer, "use_kernels", lambda self, kind: missing)
    found = certify(model_file(tmp_path / "m.safetensors"))
    assert {check.note for check in found.checks if check.name == "kernels"} == {"there is no C++ compiler"}
    assert found.passed
