"""The run directory: what is finished and for which recipe, atomic writes, one process at a time.

RUN/recipe.yaml             what the pool was made with
RUN/stages.json             finished stages: fingerprint and seconds
RUN/pool/                   table.csv, operations/, scores.csv
RUN/students/NAME/          one student each
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lana.common.files import (
    WRITING_PREFIX,
    check_types,
    explain_damage,
    explain_disk,
    read_json,
    write_json,
    write_text,
)
from lana.common.importing import barred
from lana.config.folders import run_folder
from lana.config.recipe import Recipe
from lana.errors import UserError


class Run:
    """An open run directory; use `Run.open`, which holds the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pool = path / "pool"
        self.table = self.pool / "table.csv"
        self.scores = self.pool / "scores.csv"

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path | str, recipe: Recipe | None = None) -> Iterator[Run]:
        """Open or begin the run at `path`; with a recipe, one that fits what the directory was made with.

        Raises:
            UserError: in use by another process, made by another recipe, not writable, or (without a recipe) not a run.
        """
        run = cls(Path(path))
        if recipe is None:
            run_folder(path)
        with explain_disk(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(run.path / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise UserError(
                    f"The run directory {path} is in use by another process. Wait for it to end, or give another --out."
                ) from error
            try:
                if recipe is not None:
                    run._check(recipe)
                for left in run.path.rglob(f"{WRITING_PREFIX}*"):  # of a process that was killed
                    left.unlink()
                with barred(run.path):
                    yield run
            finally:
                lock.release()

    def _check(self, recipe: Recipe) -> None:
        kept = self.path / "recipe.yaml"
        if kept.is_file():
            old = Recipe.from_yaml(kept)
            before, now = self.parts(old, *POOL), self.parts(recipe, *POOL)
            if before != now and self._begun():
                changed = [
                    f"{name}: {old.options[name]!r} there, {recipe.options[name]!r} now"
                    for name in {**before, **now}
                    if old.options[name] != recipe.options[name]
                ]
                raise UserError(
                    f"The run directory {self.path} was made by another recipe ({'; '.join(changed)}). "
                    "Give another --out, or the same options to resume it."
                )
        elif any(entry.name != ".lock" for entry in self.path.iterdir()):
            raise UserError(
                f"{self.path} is not empty and not a run of lana (no recipe.yaml in it). "
                "Give another --out; nothing was changed."
            )

    def begin(self, recipe: Recipe) -> None:
        """Keep the recipe; called after the checks of its references, so that a mistake leaves nothing behind.

        Until a stage is finished another recipe may replace it, e.g. a corrected one.
        """
        if not self._begun():
            write_text(self.path / "recipe.yaml", recipe.to_yaml(self.path))

    def _begun(self) -> bool:
        """True if a pool was begun. The teacher's own figures do not count: they are quickly measured again."""
        return self.table.exists() or not self.stages().keys() <= {"teacher"}

    def parts(self, recipe: Recipe, *stages: str) -> dict[str, Any]:
        """The options that decide the named stages; the folder in which the run is resumed makes no difference."""
        return recipe.seen_from(self.path).parts(*stages)

    def recipe(self) -> Recipe:
        """The recipe that the pool was made with."""
        return Recipe.from_yaml(self.path / "recipe.yaml")

    def student(self, name: str) -> Path:
        """The folder of a student.

        Raises:
            UserError: the name is no name of a folder.
        """
        if not name or Path(name).name != name or name == ".." or not name.isprintable() or len(name.encode()) > 200:
            raise UserError(f"--name {name[:60]!r}: expected the name of a folder within {self.path / 'students'}.")
        return self.path / "students" / name

    def delivered(self, name: str) -> bool:
        """True if a student is finished, or fine-tuned already: no selection may replace it."""
        folder = self.student(name)
        return any((folder / file).exists() for file in DELIVERED) and not (folder / CHOOSING).exists()

    def stages(self) -> dict[str, dict[str, Any]]:
        """The finished stages, each with its fingerprint and seconds.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / "stages.json"
        stages: dict[str, dict[str, Any]] = read_json(path, {})
        with explain_damage(path):
            for entry in stages.values():
                check_types(entry, {"fingerprint": str, "seconds": float})
                entry["fingerprint"], entry["seconds"]  # both are there
        return stages

    def finished(self, stage: str, fingerprint: str) -> bool:
        """True if the stage was finished for this fingerprint."""
        return self.stages().get(stage, {}).get("fingerprint") == fingerprint

    def seconds(self) -> dict[str, float]:
        """Seconds that each finished stage took, over all attempts that finished it."""
        return {stage: entry["seconds"] for stage, entry in self.stages().items()}

    @contextlib.contextmanager
    def stage(self, name: str, fingerprint: str) -> Iterator[None]:
        """Do a stage and record it as finished, with the seconds it took; a failure or kill records nothing."""
        start_s = time.monotonic()
        yield
        entry = {"fingerprint": fingerprint, "seconds": round(time.monotonic() - start_s, 2)}
        write_json(self.path / "stages.json", {**self.stages(), name: entry})


DELIVERED = ("summary.json", "finetuned.json", "training.pt", "devices.json")  # one of them is in a student's folder
CHOOSING = "choosing"  # a file that marks a student while another may be chosen under its name

POOL = ("teacher", "profile", "distill", "score")
