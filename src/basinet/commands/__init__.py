"""What the commands do, for Python: each takes a recipe or paths, leaves its files, and returns what it found."""

from basinet.commands.answer.evaluate import evaluate_file
from basinet.commands.answer.force_correlation import correlate_file, write_correlation
from basinet.commands.answer.predict import predict_file, predict_table
from basinet.commands.train.debug_step import debug_step
from basinet.commands.train.finetune import FinetuneResult, finetune
from basinet.commands.train.pretrain import PretrainResult, pretrain

__all__ = [
    "FinetuneResult",
    "PretrainResult",
    "correlate_file",
    "evaluate_file",
    "finetune",
    "predict_file",
    "predict_table",
    "pretrain",
    "debug_step",
    "write_correlation",
]
