"""A run killed at any moment leaves files that can be read, and resumed it ends as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import killed_run
import pytest

from basinet.commands.run_directory import LAST_FILE, MODEL_FILE
from basinet.commands.train.pretrain import pretrain
from basinet.files import read_torch
from basinet.training.state import STATE_FILE
from small_runs import differences, frames, make_store, read_lines

TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("killed") / "store", frames())


@pytest.fixture(scope="module")
def whole(data):
    out = data.parent / "whole"
    pretrain(killed_run.recipe(data), out)
    return out


def kill(data, out, *hows):
    paths = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, killed_run.__file__, str(data), str(out), *hows],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def killed(data):
    return kill(data, data.parent, "moments", "1")


def assert_same_run(whole, out):
    assert differences(read_torch(whole / STATE_FILE), read_torch(out / STATE_FILE)) == []
    assert read_lines(whole / "metrics.jsonl") == read_lines(out / "metrics.jsonl")
    for name in (MODEL_FILE, LAST_FILE):
        assert (whole / name).read_bytes() == (out / name).read_bytes()
    assert not [p.name for p in out.iterdir() if p.name.startswith(".tmp-")]


def test_a_run_killed_at_the_worst_moments_ends_bit_for_bit_like_one_that_was_left_alone(data, whole, killed):
    steps = killed["moments"]
    assert len(steps) == len(killed_run.MOMENTS)
    assert steps == sorted(steps)  # what was saved is never lost
    assert steps[-1] == killed_run.N_STEPS
    assert_same_run(whole, data.parent / "moments")


def test_a_run_killed_at_random_moments_ends_bit_for_bit_like_one_that_was_left_alone(data, whole, killed):
    assert killed["1"] == sorted(killed["1"])
    assert max(killed["1"]) > 0
    assert_same_run(whole, data.parent / "1")


@pytest.mark.slow
def test_a_run_killed_at_many_more_random_moments_ends_the_same(data, whole, tmp_path):
    seeds = [str(seed) for seed in range(2, 8)]
    found = kill(data, tmp_path, *seeds)
    for seed in seeds:
        assert found[seed] == sorted(found[seed])
        assert_same_run(whole, tmp_path / seed)
