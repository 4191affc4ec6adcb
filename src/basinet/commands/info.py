"""Describe a model file: network, training, scope and certificate."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from basinet.commands.certify import card_of, file_hash
from basinet.config import dump_settings
from basinet.models.checkpoint import UNITS, load_ensemble, n_parameters
from basinet.models.model import Model
from basinet.models.scope import Scope, symbols


def describe_model(model_file: Path) -> dict[str, str]:
    """Return facts about a model by name, as text."""
    file = load_ensemble(model_file)
    model = file.members[0]
    settings = dump_settings(file.backbone)
    sizes = ", ".join(f"{key} {value}" for key, value in settings.items() if key != "kind" and value is not None)
    members = f", {len(file.members)} members" if len(file.members) > 1 else ""
    return {
        "network": f"{settings['kind']} ({sizes})",
        "parameters": f"{n_parameters(model):,}{members}",
        "offers": ", ".join(_outputs(model)),
        "units": f"energy {UNITS['energy']}, length {UNITS['length']}, forces {UNITS['force']}",
        "corrections": ", ".join(c.config.kind for c in model.named_corrections()) or "none",
        "trained on": _trained_on(file.metadata),
        **_scope(model.scope),
        "certificate": _certificate(model_file),
    }


def _outputs(model: Model) -> list[str]:
    units = {name: f"{name} ({head.form.unit})" for name, head in model.properties.items()}
    return [units.get(name, name) for name in sorted(model.offers)]


def _scope(scope: Scope) -> dict[str, str]:
    charges = ", ".join(f"{q:+d}" if q else "0" for q in sorted(scope.charges))
    return {
        "elements": symbols(scope.elements) or "any",
        "charges": charges or "unknown, not checked",
        "atoms": "unknown, not checked" if scope.sizes is None else f"{scope.sizes[0]} to {scope.sizes[1]}",
        "level of theory": scope.level_of_theory or "unknown",
    }


def _trained_on(metadata: Mapping[str, Any]) -> str:
    if "members" in metadata:
        each = sorted({_trained_on(member["metadata"]) for member in metadata["members"]})
        return f"{'; '.join(each)} (joined from {', '.join(Path(m['file']).name for m in metadata['members'])})"
    if "converted" in metadata:
        return f"converted from {metadata['converted']['from']} ({metadata['converted']['layout']})"
    data = metadata.get("data", {})
    source = data.get("source", "") if isinstance(data, Mapping) else ""
    step = f", step {metadata['step']}" if "step" in metadata else ""
    return f"{source}{step}" if source else "not on record"


def _certificate(model_file: Path) -> str:
    card = card_of(model_file)
    if not card.exists():
        return f"none (basinet certify {model_file})"
    record = json.loads(card.read_text(encoding="utf-8"))
    if record["sha256"] != file_hash(model_file):
        return f"{card.name} is for another file; run basinet certify {model_file} again"
    faults = sorted({c["name"] for c in record["checks"] if c["verdict"] == "fault"})
    return "passed" if record["passed"] else f"not passed: {', '.join(faults)}"
