"""Memory that stays in the process is not given back and asked for again."""

import json
import platform
import subprocess
import sys

import pytest

from basinet.commands.launch import launch
from basinet.commands.recipe import LaunchConfig

FAULTS = """
import json, resource, sys
import torch
from basinet.commands.launch import keep_freed_memory

kept = sys.argv[1] == "keep" and keep_freed_memory()
found = []
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(50_000_000)  # 200 MB, freed at once
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps([kept, found]))
"""
PAGES = 200_000_000 // 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("keep", [False, True])
def test_freed_memory_is_used_again_without_page_faults(keep: bool) -> None:
    command = [sys.executable, "-c", FAULTS, "keep" if keep else "default"]
    kept, faults = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert kept is keep
    if faults[0] < PAGES / 4:
        pytest.skip("the kernel backs memory by pages of 2 MB here, so there are few faults to save")
    assert (max(faults[-10:]) < PAGES / 100) is keep  # where blocks begin settles in the first rounds


def test_where_it_cannot_be_kept_a_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basinet.commands.launch.keep_freed_memory", lambda: False)
    with pytest.raises(ValueError, match="keep_memory=true needs Linux with glibc"):
        launch(LaunchConfig(accelerator="cpu", keep_memory=True))
