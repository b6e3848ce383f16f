from __future__ import annotations

import pytest

from lavakv import TaskError
from lavakv.tasks import get_task, task_names


def test_every_name_gives_its_task_and_says_what_it_is() -> None:
    assert len(task_names()) == 21 + 13 + 12 + 13 + 4
    for name, line in task_names().items():
        task = get_task(name)
        assert task.name == name
        assert task.benchmark in line
        assert task.metric in line
        assert "\n" not in line


@pytest.mark.parametrize(
    ("name", "close"),
    [("longbench_lccc", "longbench_lcc"), ("niah_singel_1", "niah_single_1"), ("harness:gsm88k", "gsm8k"),
     ("needel", "needle")],
)  # fmt: skip
def test_close_names_are_offered(name: str, close: str) -> None:
    with pytest.raises(TaskError) as caught:
        get_task(name)
    assert caught.value.got == repr(name)
    assert close in caught.value.fix


def test_nothing_close() -> None:
    with pytest.raises(TaskError, match="task_names"):
        get_task("@@@@@@@@@@")
