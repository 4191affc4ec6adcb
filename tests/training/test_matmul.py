"""The precision of matrix products during a training, and after it."""

from pathlib import Path

import pytest
import torch

from basinet.commands.train.finetune import finetune
from basinet.training.fit import Progress, matmul_precision
from small_runs import finetune_recipe, frames, make_store, training


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_a_training_multiplies_as_asked_and_leaves_the_setting_as_it_was(tmp_path: Path, precision: str) -> None:
    before, seen = torch.get_float32_matmul_precision(), []

    def look(_: Progress) -> None:
        seen.append(torch.get_float32_matmul_precision())

    recipe = finetune_recipe(
        make_store(tmp_path / "store", frames()), training=training(n_steps=2, matmul_precision=precision)
    )
    finetune(recipe, tmp_path / "run", on_progress=look)
    assert seen == [precision, precision]
    assert torch.get_float32_matmul_precision() == before


def test_the_setting_is_as_it_was_after_an_error_too() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), matmul_precision("medium"):
        raise KeyError
    assert torch.get_float32_matmul_precision() == before


def test_float32_is_the_default() -> None:
    assert training().matmul_precision == "highest"
