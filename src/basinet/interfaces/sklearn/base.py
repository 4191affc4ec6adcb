"""Read SMILES for the estimators, and report rows that failed."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from basinet.commands.answer.records import Record
from basinet.commands.answer.stream import OutsidePolicy, outside
from basinet.data.chemistry.compounds import ConformerTask, Fragments, conformer_sets
from basinet.models.scope import Scope

try:
    from sklearn.base import BaseEstimator
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        'scikit-learn is not installed; pip install "basinet[sklearn,rdkit]"', name="sklearn"
    ) from missing


class FailedMoleculesWarning(UserWarning):
    """Some molecules have no features or prediction; their rows are NaN."""


class OfSmiles(BaseEstimator):
    """Base of estimators that take SMILES: a list, a column of a table, or an array; a missing entry fails its row."""

    failures_: dict[int, str]
    """Reasons for rows of NaN in the last call, by row."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        return tags

    def note(self, failures: dict[int, str], smiles: Sequence[str]) -> None:
        """Keep the reasons for rows that failed, and warn of them."""
        self.failures_ = failures
        if failures:
            row, reason = next(iter(failures.items()))
            warnings.warn(
                f"{len(failures)} of {len(smiles)} molecules failed, the first of them in row {row} ({smiles[row]!r}: "
                f"{reason}); their rows are NaN, see failures_",
                FailedMoleculesWarning,
                3,
            )


def as_smiles(given: Any) -> list[str]:
    """Return SMILES as a list; a missing one is "".

    Args:
        given: a sequence of text, an array, or one column of a table.

    Raises:
        ValueError: it is one text, or has several columns.
        TypeError: an entry is neither text nor missing.
    """
    if isinstance(given, str):
        raise ValueError(f"expected a list of SMILES, got one text, {given!r}; put it into a list")
    array = np.asarray(given, dtype=object)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"expected a list of SMILES or one column of them, got an array of {array.shape}")
    found: list[str] = []
    for row, text in enumerate(array.tolist()):
        missing = text is None or (isinstance(text, float) and np.isnan(text))
        if not missing and not isinstance(text, str):
            raise TypeError(f"expected SMILES, got {type(text).__name__} {text!r} in row {row}")
        found.append("" if missing else str(text).strip())
    return found


def records_of(
    smiles: Sequence[str], n_conformers: int, seed: int, fragments: Fragments, processes: int | None
) -> Iterator[Record]:
    """Yield a record of each SMILES, with its conformers or the reason for having none."""
    tasks = (ConformerTask(text, n_conformers, seed, fragments) for text in smiles)
    for number, (text, found) in enumerate(zip(smiles, conformer_sets(tasks, processes), strict=True)):
        failed = isinstance(found, str)
        yield Record(number, "", text, {}, [] if failed else found, found if failed else "")


def refusal(record: Record, scope: Scope, policy: OutsidePolicy) -> str:
    """Return the reason for not computing a record; "" if there is none."""
    return record.reason or (outside(scope, record) if policy == "error" else "")


def quiet(line: str) -> None:
    """Do not report batches that are cut in half."""
