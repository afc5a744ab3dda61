"""Train a network on from its weights, against labels alone: a wide teacher for the comparisons.

    python benchmarks/train_wide.py PATH/wide_resnet.py:wrn16_4 --weights PATH/wrn16_4.safetensors \
        --data parquet:PATH --image-size 32 --epochs 30 --out wrn16_4-on.safetensors

The epoch that is best on the validation part of train is kept. After an interruption, the same command resumes the
training.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch
from safetensors.torch import save_model

from lana.config.options import FineTuning
from lana.data.loading import load_data
from lana.evaluation.metrics import evaluate_module
from lana.evaluation.task import load_task
from lana.models.teacher import load_teacher
from lana.training.distributed import SingleProcess
from lana.training.finetuning import TrainingSetup, finetune


@click.command()
@click.argument("model")
@click.option("--weights", type=click.Path(path_type=Path), help="Go on from these; without, from nothing.")
@click.option("--data", required=True)
@click.option("--image-size", type=int, default=32)
@click.option("--epochs", type=float, default=30.0)
@click.option("--lr", type=float, default=2e-3)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    model: str, weights: Path | None, data: str, image_size: int, epochs: float, lr: float, device: str, out: Path
) -> None:
    loaded = load_teacher(
        model, weights=str(weights) if weights else None, image_size=image_size, pretrained=bool(weights)
    )
    examples, task = load_data(data, loaded), load_task("classification")
    settings = FineTuning(
        epochs=epochs,
        lr=lr,
        batch_size=128,
        weight_decay=0.05,
        distillation=0.0,
        compile=device == "cpu",  # on a GPU it takes minutes
    )
    shown = -1

    def show(done: float, detail: str) -> None:
        nonlocal shown
        if int(done * 100) > shown:
            shown = int(done * 100)
            print(f"{time.strftime('%H:%M:%S')} {shown}% {detail}", flush=True)

    setup = TrainingSetup(
        teacher=loaded.module, data=examples, task=task, settings=settings, group=SingleProcess(device)
    )
    curve = finetune(
        loaded.module,
        setup,
        checkpoint=out.with_suffix(".pt"),
        start_share=0.95,  # its validation images were trained on
        on_progress=show,
    )
    print("validation:", ", ".join(f"{row.validation_metric:.2%}" for row in curve))
    print(f"test: {evaluate_module(loaded.module, examples.test, task, device=device).metric:.2%}")
    save_model(loaded.module, str(out))


if __name__ == "__main__":
    main()
