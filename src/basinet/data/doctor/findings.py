"""Findings of checks of data: a verdict, the numbers behind it, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

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


class Check(NamedTuple):
    """Makes the findings of one check."""

    name: str

    def found(self, verdict: Verdict, evidence: str, fix: str = "") -> Finding:
        """Return a finding."""
        return Finding(check=self.name, verdict=verdict, evidence=evidence, fix=fix)

    def ok(self, evidence: str) -> Finding:
        """Return that there is nothing to do."""
        return self.found("ok", evidence)

    def not_checked(self, reason: str) -> Finding:
        """Return that the data does not allow the check."""
        return self.found("not checked", reason)

    def warning(self, evidence: str, fix: str) -> Finding:
        """Return something to know before training."""
        return self.found("warning", evidence, fix)

    def fault(self, evidence: str, fix: str) -> Finding:
        """Return a reason not to train on the data as it is."""
        return self.found("fault", evidence, fix)


def first_of(bad: Bool[np.ndarray, " n"], rows: Int64[np.ndarray, " n"] | None = None) -> str:
    """Name the first molecules of a finding by index: ``molecules 3, 17, 20 ...``."""
    found = np.flatnonzero(bad)
    named = found if rows is None else rows[found]
    more = " ..." if len(named) > N_NAMED else ""
    return f"molecule{'s' if len(named) > 1 else ''} {', '.join(map(str, named[:N_NAMED].tolist()))}{more}"


def worst(findings: Sequence[Finding]) -> Verdict:
    """Return the worst verdict: ``fault``, ``warning`` or ``ok``."""
    verdicts = {finding.verdict for finding in findings}
    return "fault" if "fault" in verdicts else "warning" if "warning" in verdicts else "ok"
