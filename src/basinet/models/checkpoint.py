"""Save and load model files: safetensors with a JSON header, which run no code."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from basinet import __version__
from basinet.backbones.base import BackboneSettings
from basinet.backbones.build import BackboneConfig, build_backbone, is_known, plugin_of
from basinet.backbones.plugin import load_plugin
from basinet.config import dump_settings, read_settings
from basinet.files import replacing
from basinet.models.conformal import Calibration
from basinet.models.corrections import CorrectionConfig
from basinet.models.heads.base import HeadKind
from basinet.models.heads.property import PropertyForm
from basinet.models.model import Model, build_model_of
from basinet.models.scope import Scope
from basinet.models.version_0_1 import current_heads, current_weights

FORMAT_VERSION = 6
"""1: heads were a list of names, the energy head was the gated one; up to 2: no properties; up to 3: one member, no
calibration; up to 4: no corrections, charges and sizes; up to 5 (version 0.1): the energy was a head of its own kind,
apart from its reference energies, and not a property."""
MEMBER = "members."
"""Prefix of the weights of further members, before their number."""
CALIBRATION = "calibration."
"""Prefix of the scores of a calibration."""
NOT_CALIBRATED: Mapping[str, Calibration] = MappingProxyType({})
UNITS = {"energy": "eV", "length": "Angstrom", "force": "eV/Angstrom"}


class ModelFile(NamedTuple):
    """A saved model with its settings and metadata."""

    model: Model
    backbone: BackboneConfig
    """The settings its backbone was built from."""
    metadata: Mapping[str, Any]
    """``recipe``, ``metrics``, ``step``, ``data`` ... as the writer chose; see :func:`save_model`."""


class EnsembleFile(NamedTuple):
    """Content of a model file: the members of an ensemble, and the calibration of its intervals."""

    members: tuple[Model, ...]
    """A plain model is one member."""
    backbone: BackboneConfig
    metadata: Mapping[str, Any]
    calibration: Mapping[str, Calibration]
    """Calibration of each property, by name."""


def save_model(
    model: Model,
    path: Path,
    backbone: BackboneConfig,
    metadata: Mapping[str, Any] | None = None,
    *,
    further: Sequence[Model] = (),
    calibration: Mapping[str, Calibration] = NOT_CALIBRATED,
) -> None:
    """Write a model, all or nothing: a reader sees the old file or the new one, never a part.

    Args:
        model: Model to save.
        path: File to write, by convention ``*.safetensors``.
        backbone: Settings of its backbone.
        metadata: Anything JSON can hold: recipe, metrics, data hashes.
        further: Other members of an ensemble: the same network with other weights.
        calibration: Calibration of the intervals of properties, by name.
    """
    if any((m.head_kinds(), m.forms()) != (model.head_kinds(), model.forms()) for m in further):
        raise ValueError("the members of an ensemble must have the same heads")
    header = {
        "format_version": FORMAT_VERSION,
        "basinet_version": __version__,
        "units": UNITS,
        "backbone": dump_settings(backbone),
        "plugin": plugin_of(backbone),
        "heads": dict(sorted(model.head_kinds().items())),
        "properties": {name: form._asdict() for name, form in sorted(model.forms().items())},
        "members": 1 + len(further),
        "calibration": {name: {"floor": c.floor, "n": len(c.scores)} for name, c in calibration.items()},
        "elements": sorted(model.scope.elements),
        "level_of_theory": model.scope.level_of_theory,
        "charges": sorted(model.scope.charges),
        "sizes": model.scope.sizes,
        "corrections": [dump_settings(correction.config) for correction in model.named_corrections()],
        "metadata": dict(metadata or {}),
    }
    tensors = _weights(model, "")
    for number, member in enumerate(further, start=1):
        tensors |= _weights(member, f"{MEMBER}{number}.")
    tensors |= {f"{CALIBRATION}{name}": c.scores.double().cpu().contiguous() for name, c in calibration.items()}
    with replacing(path, OSError, SafetensorError) as temporary:
        save_file(tensors, temporary, metadata={"basinet": json.dumps(header)})


def load_model(path: Path, plugin: Path | None = None) -> ModelFile:
    """Read a model file strictly: every tensor is used, none is missing. Of an ensemble, this is the first member.

    Args:
        path: Model file.
        plugin: Python file that defines its backbone, if that is not one of basinet's; it is run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a model file of ours, is damaged, or is from a newer version.
    """
    file = load_ensemble(path, plugin)
    return ModelFile(file.members[0], file.backbone, file.metadata)


def load_ensemble(path: Path, plugin: Path | None = None) -> EnsembleFile:
    """Read all members of a model file, and its calibration; arguments and errors as in :func:`load_model`."""
    if plugin is not None:
        load_plugin(plugin)
    header, tensors = _read(path)
    config = _backbone(header, path)
    wanted = {f"{CALIBRATION}{name}": floor for name, floor in _floors(header, path).items()}
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise ValueError(f"{path}: the calibration the file describes is not in it: {', '.join(missing)}")
    calibration = {
        key.removeprefix(CALIBRATION): Calibration(tensors.pop(key).clone(), floor) for key, floor in wanted.items()
    }
    n_members = header.get("members", 1)
    prefixes = [f"{MEMBER}{number}." for number in range(1, n_members)]
    parts = [{k.removeprefix(p): tensors.pop(k) for k in list(tensors) if k.startswith(p)} for p in prefixes]
    members = tuple(_member(header, path, config, part) for part in (tensors, *parts))
    return EnsembleFile(members, config, header["metadata"], calibration)


def _member(header: Mapping[str, Any], path: Path, config: BackboneConfig, tensors: Mapping[str, Tensor]) -> Model:
    """Return one network with its weights."""
    corrections = read_settings(list[CorrectionConfig], header.get("corrections", []), f"{path}: corrections")
    kinds, forms = _heads(header, path)
    model = build_model_of(build_backbone(config), kinds, forms).with_corrections(*corrections)
    tensors = current_weights(tensors) if header["format_version"] < 6 else tensors
    problems = _mismatch(model.state_dict(), tensors)
    if problems:
        raise ValueError(f"{path}: the weights do not fit the network the file describes: {'; '.join(problems)}")
    # Assigned, to keep the dtype they were saved in; copied, because they lie unaligned in the file, and sums of
    # unaligned numbers round in another order.
    model.load_state_dict({key: value.clone() for key, value in tensors.items()}, assign=True)
    model.scope = _scope(header)
    return model


def _weights(model: Model, prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}


def _floors(header: Mapping[str, Any], path: Path) -> dict[str, float | None]:
    """Return the floor of each calibration."""
    found = read_settings(dict[str, dict[str, float | None]], header.get("calibration", {}), f"{path}: calibration")
    return {name: entry["floor"] for name, entry in found.items()}


def read_backbone(path: Path) -> BackboneConfig:
    """Return the settings of the backbone in a model file; errors as in :func:`load_model`."""
    return _backbone(_read(path)[0], path)


def _backbone(header: Mapping[str, Any], path: Path) -> BackboneSettings:
    values, plugin = header["backbone"], header.get("plugin")
    if not is_known(values["kind"]):
        raise ValueError(
            f"{path}: its network, {values['kind']!r}, is defined in the plugin {plugin}; give that file: "
            f"basinet --plugin {plugin} COMMAND ..., plugin={plugin} in a recipe, or load_model(path, plugin=...)"
        )
    return read_settings(BackboneConfig, values, f"{path}: backbone")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if path.is_dir():
        raise ValueError(f"{path} is a directory; name the model file in it, for example {path / 'model.safetensors'}")
    if not path.exists():
        raise FileNotFoundError(f"no model file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("basinet")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a model file, or is cut short ({error}); expected *.safetensors") from None
    if text is None:
        raise ValueError(f"{path} is a safetensors file but not one of basinet; convert it first")
    header = json.loads(text)
    if header["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {header['format_version']} (basinet {header['basinet_version']}), this basinet "
            f"{__version__} reads up to {FORMAT_VERSION}; update basinet"
        )
    return header, tensors


def _heads(header: Mapping[str, Any], path: Path) -> tuple[dict[str, HeadKind], dict[str, PropertyForm]]:
    """Return the kinds of heads and the forms of properties."""
    heads, forms = (
        header["heads"],
        read_settings(dict[str, PropertyForm], header.get("properties", {}), f"{path}: properties"),
    )
    if header["format_version"] == 1:
        heads = {name: "gated_energy" if name == "energy" else name for name in heads}
    if header["format_version"] < 6:
        heads, forms = current_heads(heads, forms)
    return read_settings(dict[str, HeadKind], heads, f"{path}: heads"), forms


def _scope(header: Mapping[str, Any]) -> Scope:
    sizes = header.get("sizes")
    return Scope(
        frozenset(header["elements"]),
        header["level_of_theory"],
        frozenset(header.get("charges", [])),
        None if sizes is None else (sizes[0], sizes[1]),
    )


def _mismatch(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> list[str]:
    problems = [f"missing {key}" for key in sorted(expected.keys() - got.keys())]
    problems += [f"unexpected {key}" for key in sorted(got.keys() - expected.keys())]
    for key in sorted(expected.keys() & got.keys()):
        if expected[key].shape != got[key].shape:
            problems.append(f"{key} is {list(got[key].shape)}, expected {list(expected[key].shape)}")
    return problems


def n_parameters(model: torch.nn.Module) -> int:
    """Count trainable numbers."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
