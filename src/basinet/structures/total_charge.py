"""Find the total charge that a record states, under any of the names that codes use."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from basinet.errors import StructureError

CHARGE_NAMES = frozenset(
    {
        *("charge", "q", "qtot", "totq", "chargetotal", "totalcharge", "formalcharge", "netcharge"),
        *("molecularcharge", "moleculecharge", "molcharge", "systemcharge", "chargestate", "ioncharge"),
    }
)
"""Names of a total charge, as :func:`plain_name` writes them."""
_SIGN_LAST = re.compile(r"(\d*)([+-])")
_OTHER_SIGNS = re.compile("[^a-z0-9]")


def plain_name(key: str) -> str:
    """Return the name of a field in small letters without underscores and other signs."""
    return _OTHER_SIGNS.sub("", key.lower())


def is_charge(key: str) -> bool:
    """Return True for the name of a total charge.

    >>> is_charge("Total_Charge"), is_charge("q"), is_charge("mulliken_charges")
    (True, True, False)
    """
    name = plain_name(key)
    return name in CHARGE_NAMES or name.endswith(("totalcharge", "formalcharge"))


def stated_charge(values: Mapping[str, Any], name: str, **others: int) -> int | None:
    """Return the total charge (e) among the values of a record; ``None`` if there is none.

    A field with several numbers holds charges of atoms, and is left alone.

    Args:
        values: fields of the record by key.
        name: name of the record for messages.
        **others: charges known from elsewhere, such as the SMILES.

    Raises:
        StructureError: a charge is not a whole number, or two of them contradict each other.
    """
    found = {key: whole_charge(value, key, name) for key, value in values.items() if _states(key, value)} | others
    if len(set(found.values())) > 1:
        (first, one), (second, other) = next(
            (a, b) for a in found.items() for b in found.items() if a[1] != b[1] and a[0] != b[0]
        )
        raise StructureError(
            f"{name}: the total charge is {one:+d} by {first!r} and {other:+d} by {second!r}, expected one; correct or "
            "remove the wrong one"
        )
    return next(iter(found.values()), None)


def whole_charge(value: Any, key: str, name: str) -> int:
    """Return a charge as an integer; a text such as ``"1"``, ``"+1"`` or ``"2-"`` is one too.

    Raises:
        StructureError: it is not a whole number.
    """
    if isinstance(value, np.ndarray | list | tuple):
        value = np.asarray(value).reshape(-1)[0]
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    if isinstance(text, str) and (match := _SIGN_LAST.fullmatch(text.strip())):
        text = f"{match[2]}{match[1] or 1}"
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number != round(number):
        raise StructureError(f"{name}: {key} must be a whole number (e), got {value!r}")
    return round(number)


def _states(key: str, value: Any) -> bool:
    return is_charge(key) and value is not None and not isinstance(value, bool | np.bool_) and np.size(value) == 1


_CHARGED_ATOM = re.compile(r"\[[^\[\]]*?(\++|-+)(\d*)(?::\d+)?\]")


def formal_charge(smiles: str) -> int:
    """Return the sum of the charges that the atoms of a SMILES have.

    >>> formal_charge("[NH3+:1][CH2:2][C:3](=[O:4])[O-:5]"), formal_charge("[Ca+2].[Na+]"), formal_charge("[Fe++]")
    (0, 3, 2)
    """
    return sum((1 if sign[0] == "+" else -1) * int(n or len(sign)) for sign, n in _CHARGED_ATOM.findall(smiles))
