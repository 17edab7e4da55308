"""How training happens: a run, the loop, checkpoints and what is seen of them. Knows the task's contract, no names."""

from ._card import model_card
from .checkpoint import create_run_folder, settle, write_text
from .loop import Interrupted, Training, evaluate, learning_rate, prepare, restore, steps_per_epoch, train, train_step
from .processes import Processes, processes
from .progress import RunLog
from .run import Optim, Run

__all__ = [
    "Interrupted",
    "Optim",
    "Processes",
    "Run",
    "RunLog",
    "Training",
    "create_run_folder",
    "evaluate",
    "learning_rate",
    "model_card",
    "prepare",
    "processes",
    "restore",
    "settle",
    "steps_per_epoch",
    "train",
    "train_step",
    "write_text",
]
