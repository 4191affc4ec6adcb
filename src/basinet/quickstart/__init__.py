"""The main job from end to end, on data it makes itself: label, pre-train, fine-tune, test, simulate, report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from basinet.evaluation.report import write_quickstart_report
from basinet.evaluation.results import Stage
from basinet.quickstart import present, stages
from basinet.quickstart.config import QuickstartConfig
from basinet.terminal import say

__all__ = ["QuickstartConfig", "quickstart"]


def quickstart(config: QuickstartConfig, out: Path) -> Path:
    """Run everything and return the path of the report.

    Args:
        config: sizes.
        out: directory to work in; what is there already is not done again.
    """
    out.mkdir(parents=True, exist_ok=True)
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


@contextmanager
def _timed(name: str, times: list[Stage]) -> Iterator[None]:
    start = time.monotonic()
    yield
    times.append(Stage(name=name, seconds=time.monotonic() - start))
