"""A worker of the group that fine-tunes a student.

The process that starts them holds the run's lock, delivers and measures; the workers only train.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from lana.common.files import explain_disk
from lana.common.importing import EndedProgram, fenced
from lana.common.progress import reporting, silence
from lana.config.recipe import Recipe
from lana.errors import LanaError
from lana.runs.context import prepare
from lana.runs.run import Run
from profilers.worker import end_with_the_starter


def main(student: str, recipe_path: str) -> NoReturn:
    from lana.delivery.finetune import train_student
    from lana.training.distributed import DistributedGroup

    folder, recipe = Path(student), Recipe.from_yaml(recipe_path)
    group = DistributedGroup(recipe.compute.device)
    if not group.is_main:
        silence()
    context = prepare(Run(folder.parent.parent), recipe)
    train_student(context, folder, group, "--replace-better" in sys.argv)
    group.end()


if __name__ == "__main__":
    end_with_the_starter()
    try:
        with explain_disk(Path(sys.argv[1])), reporting(quiet="--quiet" in sys.argv), fenced():
            main(*sys.argv[1:3])
    except (LanaError, EndedProgram) as error:
        sys.exit(f"lana: {error}")
