"""One of several processes that fine-tune a student together.

The process that starts them holds the run's lock, delivers and measures; the workers only train.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from lana.common.files import explain_disk
from lana.config.recipe import Recipe
from lana.errors import LanaError
from lana.runs.context import prepare
from lana.runs.run import Run
from profilers.worker import end_with_the_starter


def main(student: str, told: str, *, quiet: bool) -> NoReturn:
    from lana.delivery.finetune import train_student
    from lana.training.distributed import Together

    folder, recipe = Path(student), Recipe.from_yaml(told)
    team = Together(recipe.device)
    setting = prepare(Run(folder.parent.parent), recipe, quiet=quiet or not team.first)
    train_student(setting, folder, recipe, team)
    team.end()


if __name__ == "__main__":
    end_with_the_starter()
    try:
        with explain_disk(Path(sys.argv[1])):
            main(*sys.argv[1:3], quiet="--quiet" in sys.argv)
    except LanaError as error:
        sys.exit(f"lana: {error}")
