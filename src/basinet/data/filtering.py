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
    n_listed_unread: int
    """Lines of the list that do not parse."""
    n_found_molecules: int
    """Of these, the ones that the records have."""

    def __str__(self) -> str:
        """Say it in one line."""
        unknown = "".join(f", {count} left out ({reason})" for reason, count in sorted(self.n_unknown.items()))
        unread = f"; {self.n_listed_unread} lines of the list do not parse" if self.n_listed_unread else ""
        return (
            f"{len(self.kept)} of {self.n_records} records kept; {self.n_listed} left out as "
            f"{self.n_found_molecules} of {self.n_listed_molecules} listed molecules{unknown}{unread}"
        )


def without_listed(smiles: Sequence[str], listed: Iterable[str], same: Callable[[str], str] = compound) -> Filtered:
    """Return the records whose molecule is not on a list, compared by canonical form, never as text.

    3D-EMGP compares text, so that the same molecule written otherwise, or with other stereo marks, passes. Lines of a
    list that do not parse (SMILES perceived from positions may have impossible valences) are counted; a record written
    like them does not parse either, and is left out for that.

    Args:
        smiles: of each record; records of one molecule (conformers) may share it.
        listed: SMILES of the molecules to leave out.
        same: what two SMILES of one molecule share: ``compound`` of :mod:`basinet.data.molecules` (all stereoisomers
            and isotopes are one molecule) or ``canonical`` (their marks must agree).

    Raises:
        ValueError: there is a list and nothing on it parses.
    """
    wanted, n_unread = _forms_of_list(listed, same)
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
    return Filtered(
        kept=np.array(kept, dtype=np.int64),
        n_records=len(smiles),
        n_listed=n_listed,
        n_unknown=dict(unknown),
        n_listed_molecules=len(wanted),
        n_listed_unread=n_unread,
        n_found_molecules=len(found),
    )


def _form(smiles: str, same: Callable[[str], str]) -> str | None:
    try:
        return same(smiles)
    except GenerationError:
        return None


def _forms_of_list(listed: Iterable[str], same: Callable[[str], str]) -> tuple[frozenset[str], int]:
    entries = list(listed)
    forms = [_form(entry, same) for entry in entries]
    read = frozenset(form for form in forms if form is not None)
    if entries and not read:
        raise ValueError(f"nothing on the list parses; it begins with {entries[0]!r}, expected SMILES such as CCO")
    return read, forms.count(None)
