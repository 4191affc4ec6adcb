"""Write the metrics of a run as JSON lines, and optionally to TensorBoard."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from basinet.files import write_text

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """``metrics.jsonl`` in the run directory: appended line by line, cut back when a run resumes.

    Args:
        directory: Run directory.
        resume_step: Step to resume from; records of later steps are dropped.
        tensorboard: Write TensorBoard events as well (needs the extra of that name).
    """

    def __init__(self, directory: Path, *, resume_step: int, tensorboard: bool) -> None:
        self.path = directory / METRICS_FILE
        records = [r for r in read_metrics(self.path) if r["step"] <= resume_step] if resume_step else []
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in records))
        self._writer = _tensorboard_writer(directory, resume_step) if tensorboard else None
        self._file = open(self.path, "a", buffering=1)  # noqa: SIM115 (open as long as the run)

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Append one record of ``kind`` (``train`` or ``validation``)."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        if self._writer is not None:
            for key, value in values.items():
                self._writer.add_scalar(f"{kind}/{key}", value, step)

    def close(self) -> None:
        """Finish the files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise ValueError(f"{path}, line {number} is not JSON: {line[:60]!r}") from None
    return records


def _tensorboard_writer(directory: Path, resume_step: int) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise ImportError('TensorBoard is not installed: pip install "basinet[tensorboard]"') from None
    return SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step + 1)
