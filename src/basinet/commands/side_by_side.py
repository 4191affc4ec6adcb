"""Do several runs at a time, one core each."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from basinet.commands.recipe import FinetuneRecipe, PretrainRecipe, TrainableRecipe
from basinet.commands.run_directory import LAST_FILE, RECIPE_FILE, RESULTS_FILE
from basinet.commands.train.finetune import finetune
from basinet.commands.train.pretrain import pretrain
from basinet.data.workers import map_in_order
from basinet.training.log import METRICS_FILE, read_metrics

Watch = Callable[[int, int, str], None]
"""Called with steps done, of how many, and the names of the current runs."""
WATCH_INTERVAL = 0.5


def run_side_by_side(runs: Mapping[Path, TrainableRecipe], processes: int, watch: Watch) -> None:
    """Do every run in its directory, ``processes`` at a time; finished ones are skipped, interrupted ones resumed.

    Raises:
        RunError: a process died.
        ValueError: a run cannot be done; the others stop too, and the same call resumes them.
    """
    left = [(directory, recipe) for directory, recipe in runs.items() if not is_finished(directory, recipe)]
    with _repeating(lambda: watch(*steps_done(runs))):
        if left:
            with closing(map_in_order(_run, left, min(processes, len(left)))) as results:
                list(results)


def is_finished(directory: Path, recipe: TrainableRecipe) -> bool:
    """Return whether a run has trained to its end and, if it has a test, was tested."""
    return (directory / (LAST_FILE if isinstance(recipe, PretrainRecipe) else RESULTS_FILE)).exists()


def steps_done(runs: Mapping[Path, TrainableRecipe]) -> tuple[int, int, str]:
    """Return the steps done of all runs, of how many, and the names of the current runs."""
    done = {run: max((r["step"] for r in read_metrics(run / METRICS_FILE)), default=0) for run in runs}
    steps = {run: recipe.training.n_steps for run, recipe in runs.items()}
    active = ", ".join(f"{run.name} {done[run]}/{n}" for run, n in steps.items() if 0 < done[run] < n)
    return sum(done.values()), sum(steps.values()), active


def _run(job: tuple[Path, TrainableRecipe]) -> None:
    """Do one run, in a worker process."""
    directory, recipe = job
    resume = (directory / RECIPE_FILE).exists()
    match recipe:
        case FinetuneRecipe():
            finetune(recipe, directory, resume=resume)
        case PretrainRecipe():
            pretrain(recipe, directory, resume=resume)


@contextmanager
def _repeating(action: Callable[[], None]) -> Iterator[None]:
    """Call ``action`` repeatedly in the background, and once at the end."""
    finished = threading.Event()

    def repeat() -> None:
        while not finished.wait(WATCH_INTERVAL):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
    action()
