"""What a check of data found: a verdict, the numbers behind it, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

Verdict = Literal["ok", "warning", "fault", "not checked"]
N_NAMED = 3
"""Molecules named in a finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check."""

    check: str
    verdict: Verdict
    evidence: str
    """The numbers, in one line; for ``not checked`` the reason."""
    fix: str = ""
    """What to do, in one line; empty if there is nothing to do."""


def first_of(bad: Bool[np.ndarray, " n"], rows: Int64[np.ndarray, " n"] | None = None) -> str:
    """Name the first molecules that a check points to, by their index: ``molecules 3, 17, 20 ...``."""
    found = np.flatnonzero(bad)
    named = found if rows is None else rows[found]
    more = " ..." if len(named) > N_NAMED else ""
    return f"molecule{'s' if len(named) > 1 else ''} {', '.join(map(str, named[:N_NAMED].tolist()))}{more}"


def worst(findings: Sequence[Finding]) -> Verdict:
    """Return ``fault`` if there is one, else ``warning`` if there is one, else ``ok``."""
    verdicts = {finding.verdict for finding in findings}
    return "fault" if "fault" in verdicts else "warning" if "warning" in verdicts else "ok"
