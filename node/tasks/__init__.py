"""What a node trains: the `Task` a user brings, the built-in ones, and the loader that finds either.

Importing this package imports neither torch nor any data: a built-in task is resolved when it is loaded.
"""

from .registry import TASKS, load_task
from .task import Calibrated, Resumable, Shard, Task, TrainReport

__all__ = ["TASKS", "Calibrated", "Resumable", "Shard", "Task", "TrainReport", "load_task"]
