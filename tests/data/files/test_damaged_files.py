"""A file damaged at random is read rightly or refused in words: no crash, no other exception, no molecule lost.

No format here has a checksum over its numbers, so a damaged number that is still a sensible number cannot be told.
"""

import warnings

import pytest

from damage import as_file, isolated_outcomes, outcomes
from data_files import FORMATS, conformations, write_file

FEW, MANY = 25, 500
MAY_END_ANYWHERE = {"extxyz", "csv"}
"""A text that is cut off after a line is a sound text of fewer molecules."""


def allowed(kind):
    return {"right", "refused", "changed"} | ({"lost"} if kind in MAY_END_ANYWHERE else set())


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_file_is_read_or_refused(kind, tmp_path):
    path, options = write_file(tmp_path, kind, conformations())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = outcomes(path, FEW, 1, options)
    assert set(found) <= allowed(kind), found
    assert found["refused"] > 0, found


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_no_damage_crashes_or_hangs_a_reader(kind, tmp_path):
    path, options = write_file(tmp_path, kind, conformations())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = isolated_outcomes(path, MANY, 2, as_file(options))
    print(f"\n{kind}: " + ", ".join(f"{count} {what}" for what, count in sorted(found.items())))
    assert set(found) <= allowed(kind), found
