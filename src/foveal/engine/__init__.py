"""How training happens: a run, the loop, checkpoints and what is seen of them. Knows the task's contract, no names."""

from .checkpoint import create_run_folder, save_model
from .progress import RunLog
from .run import Run
from .train import evaluate, train

__all__ = ["Run", "RunLog", "create_run_folder", "evaluate", "save_model", "train"]
