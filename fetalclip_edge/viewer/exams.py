"""One exam after the other: each saved into a folder of its own."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fetalclip_edge.checklist import ITEMS, Checklist

__all__ = ["Ended", "Exams"]


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of an exam that was to end.

    Attributes:
        words: to be shown.
        new: whether a new exam has begun; False where this one goes on.
    """

    words: str
    new: bool


class Exams:
    """Ends exams, and saves their pictures if a folder was given. Used by one thread at a time.

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

    def end(self) -> Ended:
        """Save what was captured, if anything was, and begin a new exam. Says what was done.

        An exam that cannot be saved goes on.
        """
        words = "New exam."
        captured = len(self._checklist.captured())
        if self._folder is not None and captured:
            try:
                saved = self._save(self._folder)
            except OSError as error:
                words = f"Not saved, so the exam goes on: {error.strerror or error}."
                return Ended(words, new=False)
            words = f"Saved as {saved.name}: {captured} of {len(ITEMS)} planes."
        self._reset()
        return Ended(words, new=True)

    def _save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        # For its owner alone, and given its name when it is whole.
        unfinished = Path(tempfile.mkdtemp(dir=folder, prefix=".exam-"))
        try:
            self._checklist.save(unfinished)
            numbers = itertools.count(1)
            exam = next(e for n in numbers if not (e := folder / f"exam-{n:03d}").exists())
            return unfinished.rename(exam)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
