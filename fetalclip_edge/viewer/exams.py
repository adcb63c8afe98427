"""One exam after the other: each saved into a folder of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from fetalclip_edge.checklist import ITEMS, Checklist

__all__ = ["Exams"]


class Exams:
    """Ends exams, and saves their pictures if a folder was given.

    Args:
        checklist: of the exam under way.
        folder: gets a folder `exam-001` and so on for each, or None.
        reset: begins a new exam, the checklist's too; by default that alone.
    """

    def __init__(
        self,
        checklist: Checklist,
        folder: Path | None,
        reset: Callable[[], object] | None = None,
    ) -> None:
        self._checklist, self._folder = checklist, folder
        self._reset = checklist.reset if reset is None else reset
        self._lock = threading.Lock()

    def end(self) -> str:
        """Save what was captured, if anything was, and begin a new exam. Says what was done.

        An exam that cannot be saved goes on.
        """
        with self._lock:
            captured = len(self._checklist.captured())
            if self._folder is not None and captured:
                try:
                    saved = self._save(self._folder)
                except OSError as error:
                    return f"Not saved, so the exam goes on: {error.strerror or error}."
                self._reset()
                return f"Saved as {saved.name}: {captured} of {len(ITEMS)} planes."
            self._reset()
            return "New exam."

    def _save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            exam = folder / f"exam-{number:03d}"
            try:
                exam.mkdir()
            except FileExistsError:
                number += 1
                continue
            self._checklist.save(exam)
            return exam
