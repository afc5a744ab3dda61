"""Start the workers that fine-tune a student as one group."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from lana.common.progress import shown
from lana.config.recipe import Recipe
from lana.errors import LanaError, UserError


def finetune_in_group(folder: Path, recipe: Recipe, *, replace_better: bool = False) -> None:
    """Fine-tune the student in `folder` in `recipe.processes` processes of this machine.

    Raises:
        UserError: Accelerate is not installed, there are fewer GPUs, or a batch cannot be divided among so many.
        LanaError: a worker failed; its message was printed. Finished epochs are kept.
    """
    _check(recipe)
    with tempfile.TemporaryDirectory() as place:
        recipe_path = Path(place) / "recipe.yaml"
        recipe_path.write_text(recipe.to_yaml(place))
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={recipe.compute.processes}"]
        flags = [*([] if shown() else ["--quiet"]), *(["--replace-better"] if replace_better else [])]
        work = ["-m", "lana.delivery.finetune_worker", str(folder), str(recipe_path), *flags]
        with subprocess.Popen([sys.executable, *launch, *work], stdin=subprocess.PIPE) as process:
            failed = process.wait()
    if failed:
        raise LanaError(
            f"Fine-tuning in {recipe.compute.processes} processes failed; the reason is printed above. "
            "The same command resumes from the last finished epoch."
        )


def _check(recipe: Recipe) -> None:
    from lana.common.importing import require

    require("accelerate", extra="gpu")
    images, processes = recipe.finetuning.batch_size, recipe.compute.processes
    if images % processes:
        raise UserError(
            f"--finetune-batch {images} cannot be divided among --processes {processes}. "
            f"Give a multiple, such as {processes * -(-images // processes)}."
        )
    if recipe.compute.device.startswith("cuda"):
        import torch

        if torch.cuda.device_count() < processes:
            raise UserError(
                f"--processes {processes}: there are {torch.cuda.device_count()} CUDA devices, each process "
                "needs one. Give as many as there are, or --device cpu."
            )
