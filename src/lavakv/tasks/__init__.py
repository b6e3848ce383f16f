"""Benchmark tasks: prompts, rules and official scores; no model is needed.

Names are lm-evaluation-harness's where it has the task. Prompts come from the installed harness, data from local slices
or from the hub, scores from the benchmarks' own definitions.
"""

from lavakv.tasks.example import Example
from lavakv.tasks.registry import get_task, task_names
from lavakv.tasks.settings import Protocol, TaskSettings
from lavakv.tasks.task import Task
from lavakv.tasks.truncation import middle_truncated

__all__ = ["Example", "Protocol", "Task", "TaskSettings", "get_task", "middle_truncated", "task_names"]
