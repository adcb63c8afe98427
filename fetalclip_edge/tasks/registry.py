"""The tasks that answer for a frame besides planes, domain and biometry.

A new one is a file beside this one and an entry here; docs/tasks.md shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError
from fetalclip_edge.tasks.probes import probes_of
from fetalclip_edge.tasks.seen import FrameTask

__all__ = ["FRAME_TASKS", "frame_tasks"]

FRAME_TASKS: tuple[Callable[[ModelBundle], Mapping[str, FrameTask]], ...] = (probes_of,)
"""Each makes the tasks that a bundle has what is needed for, by name; none where it lacks it."""


def frame_tasks(bundle: ModelBundle) -> dict[str, FrameTask]:
    """Name -> task, of all that a bundle allows. Answers are in `Result.probes` by these names.

    Raises:
        BundleError: what the bundle holds for a task is wrong, or two tasks have one name.
    """
    tasks: dict[str, FrameTask] = {}
    for make in FRAME_TASKS:
        for name, task in make(bundle).items():
            if name in tasks:
                raise BundleError(f"bundle {bundle.name} has two tasks of the name {name!r}")
            tasks[name] = task
    return tasks
