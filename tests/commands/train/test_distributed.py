"""Two processes take the same steps as one that sees the whole batch, and stop and go on together."""

import os
import subprocess
import sys
from pathlib import Path

import distributed_run
import pytest
import torch
from lightning_fabric import Fabric

from basinet.commands.launch import launch
from basinet.commands.recipe import LaunchConfig
from basinet.commands.run_directory import LAST_FILE
from basinet.commands.train.pretrain import pretrain
from basinet.files import read_torch
from basinet.training.state import STATE_FILE
from small_runs import differences, frames, largest_difference, make_store, read_lines

TESTS = Path(__file__).parents[2]
ROUNDING = {torch.float32: 2e-5, torch.float64: 1e-12}
"""Relative, after four steps of Adam: sums over processes are taken in another order."""


def start(*command):
    paths = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Run everything on two processes once, and return what each of them found."""
    out = tmp_path_factory.mktemp("two")
    data = make_store(out / "store", frames())
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", 2, "--standalone")
    done = start(*torchrun, distributed_run.__file__, data, out)
    assert done.returncode == 0, done.stderr
    return out, [torch.load(out / f"found-{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_launch_under_torchrun_gives_each_process_its_rank(two):
    assert [(found["rank"], found["size"]) for found in two[1]] == [(0, 2), (1, 2)]


@pytest.mark.parametrize("name", distributed_run.CASES)
def test_two_processes_take_the_steps_of_one(two, tmp_path, name):
    case = distributed_run.CASES[name]
    one = distributed_run.run_case(case, Fabric(accelerator="cpu", devices=1), tmp_path)
    first, second = (found[name] for found in two[1])
    assert differences(first, second) == []
    assert largest_difference(one, first) < ROUNDING[case.dtype]
    number = list(distributed_run.CASES).index(name)
    norms = [
        [r["gradient_norm"] for r in read_lines(directory / "metrics.jsonl") if r["kind"] == "train"]
        for directory in (tmp_path, two[0] / f"case-{number}")
    ]
    assert norms[1] == pytest.approx(norms[0], rel=ROUNDING[case.dtype])


def test_the_control_a_share_of_the_batch_gives_other_weights(two, tmp_path):
    case = distributed_run.CASES["forces"]
    half = distributed_run.run_case(case._replace(batch_size=4), Fabric(accelerator="cpu", devices=1), tmp_path)
    assert largest_difference(half, two[1][0]["forces"]) > 1e-4


@pytest.mark.parametrize("name", distributed_run.UNEVEN)
def test_two_processes_see_every_molecule_once_an_epoch_and_step_together(two, name):
    one = distributed_run.seen_case(Fabric(accelerator="cpu", devices=1))[name]
    first, second = (found["seen"][name] for found in two[1])
    assert len(first) == len(second) == len(one)  # as many steps, however the epoch ends
    assert all(sorted(a + b) == sorted(whole) for a, b, whole in zip(first, second, one, strict=True))
    seen = [i for batch in first + second for i in batch]
    assert sorted(seen) == sorted(2 * list(range(23)))


def test_two_processes_validate_as_one_noise_included(two):
    one = distributed_run.validation_case(Fabric(accelerator="cpu", devices=1))
    first, second = (found["validation"] for found in two[1])
    assert first == second
    assert first == pytest.approx(one, rel=1e-6)
    assert {"loss", "force_mae"} <= set(one)


def test_the_statistics_of_the_noise_are_those_of_all_processes(two, tmp_path):
    one = distributed_run.noise_case(Fabric(accelerator="cpu", devices=1), tmp_path)
    first, second = (found["noise"] for found in two[1])
    assert differences(first, second) == []
    key = "heads.noise.normalizer.count"
    assert first[key] == one[key] > 0


def test_two_processes_stop_together_and_go_on_bit_for_bit(two):
    out = two[0]
    assert differences(read_torch(out / "whole" / STATE_FILE), read_torch(out / "cut" / STATE_FILE)) == []
    assert read_lines(out / "whole" / "metrics.jsonl") == read_lines(out / "cut" / "metrics.jsonl")
    assert (out / "whole" / LAST_FILE).read_bytes() == (out / "cut" / LAST_FILE).read_bytes()


def test_a_run_of_two_processes_is_not_resumed_by_one(two):
    """It would draw other noise, and be another run."""
    with pytest.raises(ValueError, match="the run had 2 processes and now has 1; use as many as before"):
        pretrain(distributed_run.recipe(two[0] / "store", 1), two[0] / "cut", resume=True)


def test_processes_that_do_not_know_of_each_other_are_refused(two):
    assert all("torchrun started 2 processes, the recipe asks for 1" in found["unaware"] for found in two[1])


def test_a_directory_that_is_taken_is_refused_by_every_process_in_words(two):
    assert all("holds a run already" in found["taken"] for found in two[1])


def test_a_gpu_that_is_not_there_is_refused_in_words():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=r"cannot run on 1 x cuda \(launch\.\*\)"):
        launch(LaunchConfig(accelerator="cuda"))


def test_without_a_gpu_a_run_takes_the_cpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert launch(LaunchConfig()).device == torch.device("cpu")
