import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from basinet.backbones.build import BackboneConfig, build_backbone
from basinet.backbones.egnn import EGNNConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.checkpoint import load_model, save_model
from basinet.models.model import Model, build_model
from basinet.models.scope import Scope
from basinet.structures.batch import collate
from molecules import SMALL

ET = EquivariantTransformerConfig(n_features=16, n_layers=1, n_heads=4, n_basis=8)
EGNN = EGNNConfig(n_features=16, n_layers=1)
METADATA = {"recipe": {"seed": 3, "steps": 1000}, "metrics": {"mae": 0.0123456789}, "note": "Å, no faults"}


@pytest.fixture
def path(tmp_path: Path, model: Model, backbone_config: EquivariantTransformerConfig) -> Path:
    """Return the file of a model with statistics, references and a scope."""
    model.energy_scale.references[6] = -1030.123456789
    model.energy_scale.scale.fill_(1.1)
    model.noise_head().normalizer.update(torch.rand(5, 3, dtype=torch.float64))
    model.scope = Scope(frozenset({1, 6, 7, 8, 2}), "wB97X-D/def2-TZVP")
    path = tmp_path / "model.safetensors"
    save_model(model, path, backbone_config, METADATA)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> None:
    """Change the header and the tensors of a model file."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["basinet"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    change(header, tensors)
    save_file(tensors, path, metadata={"basinet": json.dumps(header)})


OLD_NAMES = {
    "heads.energy.readout.atoms.gated.": "heads.energy.",
    "heads.energy.readout.atoms.plain.": "heads.energy.atomic.",
    "heads.energy.readout.": "heads.energy.",
    "heads.energy.standard.references": "references.energies",
    "heads.energy.standard.scale": "references.scale",
    "heads.noise.atoms.": "heads.noise.",
}


def as_in_0_1(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Change names to those of version 0.1, which had reference energies without an energy too."""
    energy = header.get("properties", {}).pop("energy", None)
    if header["format_version"] > 1:
        header["format_version"] = 5
        if energy is not None:
            is_gated = any(".gated." in key for key in tensors)
            sums = "gated_energy" if is_gated else "invariant_energy"
            header["heads"]["energy"] = "pooled_energy" if energy["readout"] == "pooled" else sums
    tensors.pop("heads.energy.standard.shift", None)
    for key in list(tensors):
        for new, old in OLD_NAMES.items():
            if key.startswith(new):
                tensors[old + key.removeprefix(new)] = tensors.pop(key)
                break
    tensors.setdefault("references.energies", torch.full((100,), 7.0, dtype=torch.float64))
    tensors.setdefault("references.scale", torch.tensor(3.0, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_saved_model_comes_back_bit_for_bit(
    tmp_path: Path, backbone_config: EquivariantTransformerConfig, dtype: torch.dtype
) -> None:
    model = build_model(build_backbone(backbone_config), ["energy", "noise"]).to(dtype).eval()
    path = tmp_path / "model.safetensors"
    save_model(model, path, backbone_config)
    loaded = load_model(path).model.eval()
    for (key, ours), (other, theirs) in zip(loaded.state_dict().items(), model.state_dict().items(), strict=True):
        assert key == other
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs), key
    batch = collate(SMALL, dtype=dtype)
    for key, value in loaded(batch, ["energy", "forces", "noise"]).items():
        assert torch.equal(value, model(batch, [key])[key]), key


def test_what_the_model_knows_of_itself_comes_back_too(
    path: Path, model: Model, backbone_config: EquivariantTransformerConfig
) -> None:
    loaded, config, metadata = load_model(path)
    assert metadata == METADATA
    assert config == backbone_config
    assert loaded.scope == model.scope
    assert float(loaded.energy_scale.references[6]) == -1030.123456789
    assert torch.equal(loaded.noise_head().normalizer.total, model.noise_head().normalizer.total)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_model_with_one_head_comes_back_with_one_head(
    path: Path, model: Model, backbone_config: EquivariantTransformerConfig
) -> None:
    save_model(model.with_heads(noise=None), path, backbone_config)
    assert load_model(path).model.offers == {"energy", "forces"}


def test_a_file_of_the_first_format_which_named_heads_only_is_read(path: Path, model: Model) -> None:
    before = load_model(path).model.state_dict()

    def as_first(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        header.update(format_version=1, heads=["energy", "noise"])
        header.pop("properties")
        as_in_0_1(header, tensors)

    rewrite(path, as_first)
    after = load_model(path).model
    assert after.offers == model.offers
    assert all(torch.equal(value, before[key]) for key, value in after.state_dict().items())


@pytest.mark.parametrize("outputs", [["energy", "noise"], ["pooled_energy", "noise_level"], ["noise"]])
@pytest.mark.parametrize("config", [ET, EGNN], ids=["gated", "plain"])
def test_a_file_of_version_0_1_is_read_with_every_bit(
    tmp_path: Path, config: BackboneConfig, outputs: list[str]
) -> None:
    outputs = [name for name in outputs if config is ET or name != "noise"]
    model = build_model(build_backbone(config), outputs)
    if "energy" in model.heads:
        model.energy_scale.references[6] = -1030.123456789
        model.energy_scale.scale.fill_(1.1)
    path = tmp_path / "model.safetensors"
    save_model(model, path, config)
    rewrite(path, as_in_0_1)
    loaded = load_model(path).model
    assert loaded.forms() == model.forms()
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_charges_and_sizes_are_in_the_file_and_unknown_in_older_ones(
    path: Path, model: Model, backbone_config: EquivariantTransformerConfig
) -> None:
    model.scope = model.scope._replace(charges=frozenset({-1, 0}), sizes=(3, 21))
    save_model(model, path, backbone_config)
    assert load_model(path).model.scope == model.scope

    def as_before(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        for key in ("charges", "sizes", "corrections"):
            del header[key]
        header["format_version"] = 4

    rewrite(path, as_before)
    old = load_model(path).model.scope
    assert (old.elements, old.charges, old.sizes) == (model.scope.elements, frozenset(), None)


def test_saving_that_fails_leaves_the_old_file_whole(
    path: Path, model: Model, backbone_config: EquivariantTransformerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_model(model, path, backbone_config, {"not JSON": object()})

    def fail_halfway(tensors: object, to: Path, metadata: object) -> None:
        to.write_bytes(before[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr("basinet.models.checkpoint.save_file", fail_halfway)
    with pytest.raises(OSError, match="no space left"):
        save_model(model, path, backbone_config)
    assert path.read_bytes() == before


def test_saving_leaves_one_file(path: Path) -> None:
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model file .*nowhere.safetensors"):
        load_model(tmp_path / "nowhere.safetensors")


def test_a_directory_is_refused_with_the_file_to_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a directory; name the model file in it, for example .*model.safetensors"):
        load_model(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.999])
def test_a_file_cut_short_is_refused(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(ValueError, match="model.safetensors is not a model file, or is cut short"):
        load_model(path)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is a safetensors file but not one of basinet; convert it first"):
        load_model(tmp_path / "other.safetensors")
    torch.save({"weight": torch.ones(3)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="model.pt is not a model file"):
        load_model(tmp_path / "model.pt")


def test_a_file_of_a_newer_format_is_refused(path: Path) -> None:
    rewrite(path, lambda header, tensors: header.update(format_version=99, basinet_version="7.1"))
    with pytest.raises(ValueError, match=r"has format 99 \(basinet 7.1\), this basinet .* reads up to 6; update"):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda header, tensors: tensors.pop("heads.energy.standard.scale"),
            "do not fit .*: missing heads.en.*.scale$",
        ),
        (lambda header, tensors: tensors.update(more=torch.ones(2)), "do not fit .*: unexpected more$"),
        (
            lambda header, tensors: tensors.update({"heads.energy.standard.references": torch.ones(9)}),
            r"do not fit .*: heads.energy.standard.references is \[9\], expected \[100\]$",
        ),
        (lambda header, tensors: header["heads"].pop("noise"), "unexpected heads.noise.atoms.first.gates.bias"),
        (
            lambda header, tensors: header["properties"]["energy"].update(readout="pooled", unit="1"),
            "missing heads.energy.readout.atomic.0",
        ),
        (lambda header, tensors: header["heads"].update(noise="quantum"), "heads:\n  noise: got 'quantum'; input sh"),
        (lambda header, tensors: header["backbone"].update(n_layers=2), "missing backbone.layers.1"),
        (lambda header, tensors: header["backbone"].update(n_rays=2), "backbone:\n  unknown option n_rays"),
    ],
)
def test_weights_that_do_not_fit_the_network_are_refused(path: Path, change: Any, message: str) -> None:
    rewrite(path, change)
    with pytest.raises(ValueError, match=message):
        load_model(path)
