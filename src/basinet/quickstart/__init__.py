"""Run the whole work flow on data made on the spot: label, pre-train, fine-tune, test, simulate, report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from basinet.commands.recipe import read_yaml, save_recipe
from basinet.config import dump_settings
from basinet.quickstart import present, stages
from basinet.quickstart.config import QuickstartConfig
from basinet.quickstart.report import write_quickstart_report
from basinet.quickstart.results import Stage
from basinet.terminal import say

__all__ = ["QuickstartConfig", "quickstart"]

CONFIG_FILE = "quickstart.yaml"


def quickstart(config: QuickstartConfig, out: Path) -> Path:
    """Run everything and return the path of the report.

    Args:
        config: sizes of the data, the networks and the runs.
        out: directory to work in; stages that are finished there are skipped.
    """
    _require_same_sizes(config, out)
    times: list[Stage] = []
    with _timed("label molecules", times):
        molecules = stages.label_molecules(config, out / "molecules")
    with _timed("label frames of one molecule", times):
        stages.label_frames(config, out / "frames", molecules.manifest.level_of_theory)
    with _timed("pre-train, fine-tune, test", times):
        tested = stages.train_all(config, out)
    with _timed("simulate", times):
        dynamics = stages.simulate_all(config, out)
    found = present.results(config, tested, dynamics, times, out)
    report = write_quickstart_report(out, found)
    present.show(found)
    say(f"report: {report}")
    return report


def _require_same_sizes(config: QuickstartConfig, out: Path) -> None:
    """Begin in a new directory, or resume in one of the same sizes.

    Raises:
        ValueError: the directory was made with other sizes.
    """
    path = out / CONFIG_FILE
    free = ("seeds", "processes")  # finished files do not depend on these
    wanted = {key: value for key, value in dump_settings(config).items() if key not in free}
    if path.exists():
        found = read_yaml(path)
        differences = [
            f"{key} was {found.get(key)}, now {value}" for key, value in wanted.items() if found.get(key) != value
        ]
        if differences:
            raise ValueError(f"{out} was made with other sizes: {'; '.join(differences)}; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    save_recipe(config, path)


@contextmanager
def _timed(name: str, times: list[Stage]) -> Iterator[None]:
    start = time.monotonic()
    yield
    times.append(Stage(name=name, seconds=time.monotonic() - start))
