"""Ctrl-C and SIGTERM end a run after the current step, with its state saved."""

import os
import signal
import threading

import numpy as np
import pytest

from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Loader
from basinet.files import read_torch
from basinet.objectives.methods import ForceAndDenoiseConfig
from basinet.training.interrupt import InterruptedRunError
from basinet.training.state import STATE_FILE
from small_runs import differences, frames, run_fit, tiny_model, training

STORE = MoleculeStore.from_molecules(frames(["H2O", "NH3"], per_compound=4))


def run(directory, on_progress=None, *, resume=False, n_steps=8):
    model = tiny_model(("energy", "noise"))
    run_fit(
        model,
        ForceAndDenoiseConfig().build(),
        Loader(STORE, np.arange(8), batch_size=3, seed=0),
        training(n_steps=n_steps, save_every=100, validate_every=4),
        directory,
        resume=resume,
        on_progress=on_progress,
    )
    return model


def send(*signals, at_step):
    def on_progress(progress):
        if progress.step == at_step:
            for number in signals:
                os.kill(os.getpid(), number)

    return on_progress


@pytest.fixture(autouse=True)
def handlers_are_as_they_were():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    yield
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_a_signal_the_step_is_finished_and_saved_and_the_run_can_go_on(tmp_path, number):
    whole = run(tmp_path / "whole")
    with pytest.raises(InterruptedRunError, match="stopped after step 4 of 8; the state is saved"):
        run(tmp_path / "cut", send(number, at_step=3))
    assert read_torch(tmp_path / "cut" / STATE_FILE)["step"] == 4
    assert differences(run(tmp_path / "cut", resume=True).state_dict(), whole.state_dict()) == []


def test_a_second_ctrl_c_acts_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, send(signal.SIGINT, signal.SIGINT, at_step=3))
    assert not (tmp_path / STATE_FILE).exists()


def test_a_signal_in_the_last_step_comes_too_late_to_stop_anything(tmp_path):
    run(tmp_path, send(signal.SIGINT, at_step=7))
    assert read_torch(tmp_path / STATE_FILE)["step"] == 8


def test_a_handler_the_program_had_gets_the_second_signal_and_is_there_afterwards(tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    mine = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(InterruptedRunError):
            run(tmp_path, send(signal.SIGTERM, signal.SIGTERM, at_step=2))
        assert seen == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_in_a_thread_has_no_handlers_and_is_the_same_run(tmp_path):
    models = []
    thread = threading.Thread(target=lambda: models.append(run(tmp_path / "thread", n_steps=3)))
    thread.start()
    thread.join()
    assert differences(models[0].state_dict(), run(tmp_path / "main", n_steps=3).state_dict()) == []
