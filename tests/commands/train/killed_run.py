"""Run a pre-training in a child process that is killed again and again, until it ends; print what was seen as JSON.

Called by ``test_killed.py``. The children are forks, so that the imports are paid for once.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import torch

import basinet.training.log as log
import basinet.training.state as state
from basinet.commands.recipe import PretrainRecipe
from basinet.commands.run_directory import LAST_FILE, MODEL_FILE, RECIPE_FILE, environment
from basinet.commands.train.pretrain import pretrain
from basinet.files import read_torch
from basinet.models.checkpoint import load_model
from basinet.objectives.methods import ForceAndDenoiseConfig
from small_runs import ON_CPU, TINY, training

N_STEPS = 12
N_KILLS = 5


def recipe(data: Path) -> PretrainRecipe:
    """Return the run: noise, two batches a step, and a state after every step."""
    return PretrainRecipe(
        data=data,
        model=TINY,
        validation_fraction=0.2,
        objective=ForceAndDenoiseConfig(),
        training=training(n_steps=N_STEPS, accumulate=2, save_every=1, validate_every=2),
        launch=ON_CPU,
    )


def die(*_: object) -> None:
    """Kill this process as the kernel would: nothing is flushed, nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def half_a_save(value: object, file: object) -> None:
    """Write the first half of a file and die."""
    whole = BytesIO()
    original_save(value, whole)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()
    die()


def dying_replace(name: str, before: bool) -> Callable[[object, object], None]:
    """Return an ``os.replace`` that dies before or after a file of this name is replaced."""

    def replace(source: object, target: object) -> None:
        if Path(str(target)).name != name:
            return original_replace(source, target)
        if not before:
            original_replace(source, target)
        return die()

    return replace


def half_a_line(self: log.MetricsLog, kind: str, step: int, values: object) -> None:
    """Write the beginning of a line and die."""
    self._file.write('{"kind": "trai')
    self._file.flush()
    die()


original_save, original_replace = torch.save, os.replace

MOMENTS: dict[str, Callable[[], None]] = {
    "before the recipe is in place": lambda: setattr(os, "replace", dying_replace("recipe.yaml", True)),
    "after the recipe is in place": lambda: setattr(os, "replace", dying_replace("recipe.yaml", False)),
    "before the first metrics": lambda: setattr(os, "replace", dying_replace("metrics.jsonl", True)),
    "while a state is written": lambda: setattr(torch, "save", half_a_save),
    "before a state is replaced": lambda: setattr(os, "replace", dying_replace("state.pt", True)),
    "after a state is replaced": lambda: setattr(os, "replace", dying_replace("state.pt", False)),
    "before the best model is replaced": lambda: setattr(os, "replace", dying_replace("model.safetensors", True)),
    "after the best model is replaced": lambda: setattr(os, "replace", dying_replace("model.safetensors", False)),
    "inside a line of the metrics": lambda: setattr(log.MetricsLog, "write", half_a_line),
    "before the last model is written": lambda: setattr(os, "replace", dying_replace("last.safetensors", True)),
}
"""What is patched in the child, and so when it dies. Those of the beginning come first."""


def child(data: Path, out: Path, prepare: Callable[[], None]) -> int:
    """Start or resume the run in a fork and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        prepare()
        pretrain(recipe(data), out, resume=(out / RECIPE_FILE).exists())
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def readable(out: Path) -> int:
    """Read every file of the run; return the step of its state."""
    log.read_metrics(out / "metrics.jsonl")
    for name in (MODEL_FILE, LAST_FILE):
        if (out / name).exists():
            load_model(out / name)
    path = out / state.STATE_FILE
    return read_torch(path)["step"] if path.exists() else 0


def saved_at(out: Path) -> int | None:
    """Return when a state was last saved, ns; ``None`` before that."""
    path = out / state.STATE_FILE
    return path.stat().st_mtime_ns if path.exists() else None


def ended(pid: int) -> int:
    """Wait for a process and return its exit status, negative if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_at_moments(data: Path, out: Path) -> list[int]:
    """Kill the run at every named moment; return the step that was saved after each."""
    steps: list[int] = []
    for name, prepare in MOMENTS.items():
        status = ended(child(data, out, prepare))
        if status != -signal.SIGKILL:
            raise SystemExit(f"{name}: ended with {status}")
        steps.append(readable(out))
    return steps


def kill_at_random(data: Path, out: Path, seed: int) -> list[int]:
    """Kill the run several times, soon after it saved something; return the step that was saved after each."""
    steps: list[int] = []
    chance = random.Random(seed)
    for _ in range(N_KILLS):
        before = saved_at(out)
        pid = child(data, out, lambda: None)
        while saved_at(out) == before and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.01)  # the machine may be slow; a run that has got nowhere is killed at the named moments
        time.sleep(chance.uniform(0, 0.2))
        os.kill(pid, signal.SIGKILL)
        if ended(pid) == 0:
            break
        steps.append(readable(out))
    return steps


def main(data: Path, out: Path, hows: list[str]) -> None:
    """Kill one run after the other, each in its own way, and let it end."""
    environment()  # looked up once, for all children
    found: dict[str, list[int]] = {}
    for how in hows:
        run = out / how
        found[how] = kill_at_moments(data, run) if how == "moments" else kill_at_random(data, run, int(how))
        if status := ended(child(data, run, lambda: None)):
            raise SystemExit(f"{how}: the last run ended with {status}")
    print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
