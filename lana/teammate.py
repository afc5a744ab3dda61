"""One of several processes that fine-tune a student together; `lana.delivery.finetune` starts and awaits them.

The process that starts them holds the run's lock, delivers and measures; these only train.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from lana.errors import LanaError, UserError
from lana.recipe import Recipe
from lana.run import Run, explain_disk
from lana.setting import prepare
from profilers.worker import end_with_the_starter


def fine_tune_together(folder: Path, recipe: Recipe, *, quiet: bool) -> None:
    """Fine-tune the student in `folder` in `recipe.processes` processes of this machine.

    Raises:
        UserError: Accelerate is not installed, there are fewer GPUs, or a batch cannot be divided among so many.
        LanaError: a process failed; its message was printed. What is finished is kept.
    """
    _check(recipe)
    with tempfile.TemporaryDirectory() as place:
        told = Path(place) / "recipe.yaml"
        told.write_text(recipe.to_yaml(place))
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={recipe.processes}"]
        work = ["-m", "lana.teammate", str(folder), str(told), *(["--quiet"] if quiet else [])]
        with subprocess.Popen([sys.executable, *launch, *work], stdin=subprocess.PIPE) as process:
            failed = process.wait()
    if failed:
        raise LanaError(
            f"Fine-tuning in {recipe.processes} processes failed; the reason is printed above. "
            "The same command goes on from the last finished epoch."
        )


def _check(recipe: Recipe) -> None:
    from lana.importing import require

    require("accelerate", extra="gpu")
    if recipe.batch_size % recipe.processes:
        raise UserError(
            f"--batch-size {recipe.batch_size} cannot be divided among --processes {recipe.processes}. "
            f"Give a multiple, such as {recipe.processes * -(-recipe.batch_size // recipe.processes)}."
        )
    if recipe.device.startswith("cuda"):
        import torch

        if torch.cuda.device_count() < recipe.processes:
            raise UserError(
                f"--processes {recipe.processes}: there are {torch.cuda.device_count()} CUDA devices, each process "
                "needs one. Give as many as there are, or --device cpu."
            )


def main(student: str, told: str, *, quiet: bool) -> NoReturn:
    from lana import delivery
    from lana.team import Together

    folder, recipe = Path(student), Recipe.from_yaml(told)
    team = Together(recipe.device)
    setting = prepare(Run(folder.parent.parent), recipe, quiet=quiet or not team.first)
    delivery.train(setting, folder, recipe, team)
    team.end()


if __name__ == "__main__":
    end_with_the_starter()
    try:
        with explain_disk(Path(sys.argv[1])):
            main(*sys.argv[1:3], quiet="--quiet" in sys.argv)
    except LanaError as error:
        sys.exit(f"lana: {error}")
