"""Leave out molecules that are on a list, so that nothing a model is tested on was in its pre-training."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from basinet.data.conformers import GenerationError
from basinet.data.molecules import compound


class Filtered(NamedTuple):
    """Which records are left, and why the others are not."""

    kept: Int64[np.ndarray, " n_kept"]
    """Indices of records, ascending."""
    n_records: int
    n_listed: int
    """Records of molecules on the list."""
    n_unknown: dict[str, int]
    """Records left out because nobody can say whether they are on the list, by reason."""
    n_listed_molecules: int
    """Different molecules on the list."""
    n_found_molecules: int
    """Of these, the ones that the records have."""

    def __str__(self) -> str:
        """Say it in one line."""
        unknown = "".join(f", {count} left out ({reason})" for reason, count in sorted(self.n_unknown.items()))
        return (
            f"{len(self.kept)} of {self.n_records} records kept; {self.n_listed} left out as "
            f"{self.n_found_molecules} of {self.n_listed_molecules} listed molecules{unknown}"
        )


def without_listed(smiles: Sequence[str], listed: Iterable[str], same: Callable[[str], str] = compound) -> Filtered:
    """Return the records whose molecule is not on a list, compared by canonical form, never as text.

    3D-EMGP compares text, so that the same molecule written otherwise, or with other stereo marks, passes.

    Args:
        smiles: of each record; records of one molecule (conformers) may share it.
        listed: SMILES of the molecules to leave out.
        same: what two SMILES of one molecule share: ``compound`` of :mod:`basinet.data.molecules` (all stereoisomers
            and isotopes are one molecule) or ``canonical`` (their marks must agree).

    Raises:
        ValueError: a listed SMILES does not parse; the molecule it stands for could not be left out.
    """
    wanted = _forms_of_list(listed, same)
    forms: dict[str, str | None] = {}
    kept: list[int] = []
    found: set[str] = set()
    unknown: Counter[str] = Counter()
    n_listed = 0
    for index, entry in enumerate(smiles):
        if not entry:
            unknown["no SMILES"] += 1
            continue
        if entry not in forms:
            forms[entry] = _form(entry, same)
        form = forms[entry]
        if form is None:
            unknown["SMILES does not parse"] += 1
        elif form in wanted:
            n_listed += 1
            found.add(form)
        else:
            kept.append(index)
    return Filtered(np.array(kept, dtype=np.int64), len(smiles), n_listed, dict(unknown), len(wanted), len(found))


def _form(smiles: str, same: Callable[[str], str]) -> str | None:
    try:
        return same(smiles)
    except GenerationError:
        return None


def _forms_of_list(listed: Iterable[str], same: Callable[[str], str]) -> frozenset[str]:
    forms: set[str] = set()
    for entry in listed:
        form = _form(entry, same)
        if form is None:
            raise ValueError(f"cannot leave out {entry!r}: it does not parse; expected a SMILES such as CCO")
        forms.add(form)
    return frozenset(forms)
