"""The metrics of a run: one JSON object a line, whatever happened to the process that wrote them."""

import sys

import pytest

from basinet.training.log import MetricsLog, read_metrics
from small_runs import read_lines


def write(directory, steps, *, resume_step=0):
    log = MetricsLog(directory, resume_step=resume_step, tensorboard=False)
    for step in steps:
        log.write("train", step, {"loss": 1.0 / step})
    log.close()


def test_every_record_is_one_line_of_json(tmp_path):
    write(tmp_path, [1, 2])
    assert read_lines(tmp_path / "metrics.jsonl") == [
        {"kind": "train", "step": 1, "loss": 1.0},
        {"kind": "train", "step": 2, "loss": 0.5},
    ]


def test_a_line_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    log = MetricsLog(tmp_path, resume_step=0, tensorboard=False)
    log.write("train", 1, {"loss": 2.0})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    log.close()


def test_a_resumed_log_drops_the_lines_that_will_be_written_again(tmp_path):
    write(tmp_path, range(1, 8))
    write(tmp_path, range(5, 10), resume_step=4)
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 10))


def test_a_run_begun_anew_begins_its_log_anew(tmp_path):
    write(tmp_path, range(1, 8))
    write(tmp_path, [1], resume_step=0)
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1]


def test_numbers_survive_writing_and_cutting_back_bit_for_bit(tmp_path):
    value = 0.1 + 1e-17 + 1 / 3
    log = MetricsLog(tmp_path, resume_step=0, tensorboard=False)
    log.write("train", 1, {"loss": value})
    log.close()
    write(tmp_path, [2], resume_step=1)
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] == value


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_last_line_cut_short_by_a_kill_is_left_out_and_written_again(tmp_path, cut):
    write(tmp_path, [1, 2, 3])
    path = tmp_path / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text[: -1 - cut])
    assert [r["step"] for r in read_metrics(path)] == [1, 2]
    write(tmp_path, [3, 4], resume_step=2)
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 3, 4]
    assert path.read_text().startswith(text)


def test_a_damaged_line_in_the_middle_is_refused_with_its_number(tmp_path):
    write(tmp_path, [1, 2, 3])
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:9], lines[2]]) + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is not JSON: '\{\"kind\": '"):
        read_metrics(path)


def test_a_run_without_metrics_has_none(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_without_tensorboard_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [m for m in sys.modules if m.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r'pip install "basinet\[tensorboard\]"'):
        MetricsLog(tmp_path, resume_step=0, tensorboard=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_tensorboard_gets_the_same_numbers(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = MetricsLog(tmp_path, resume_step=0, tensorboard=True)
    for step in (1, 2):
        log.write("train", step, {"loss": float(step)})
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 2.0)]
