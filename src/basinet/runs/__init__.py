"""What the commands do, for Python: each takes a recipe or paths, leaves its files, and returns what it found."""

from basinet.runs.finetune import FinetuneResult, finetune
from basinet.runs.force_correlation import correlate_file, write_correlation
from basinet.runs.inference import evaluate_file
from basinet.runs.predict import predict_file, predict_table
from basinet.runs.pretrain import PretrainResult, pretrain
from basinet.runs.replay import replay

__all__ = [
    "FinetuneResult",
    "PretrainResult",
    "correlate_file",
    "evaluate_file",
    "finetune",
    "predict_file",
    "predict_table",
    "pretrain",
    "replay",
    "write_correlation",
]
