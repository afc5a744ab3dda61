"""Train the bundled example's network on scikit-learn's digits and write its weights.

python benchmarks/train_digits.py [--out lana/assets/digits_resnet.safetensors]
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from lana.data.loading import load_data
from lana.evaluation.metrics import evaluate_module
from lana.evaluation.task import Classification
from lana.models.teacher import load_teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("lana/assets/digits_resnet.safetensors"))
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    teacher = load_teacher("digits-resnet", pretrained=False)
    module, data = teacher.module, load_data("digits", teacher)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=0.02)
    steps = arguments.epochs * data.train.steps(64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for epoch in range(arguments.epochs):
        module.train()
        for inputs, labels in data.train.epoch(64, seed=epoch, augment=True):
            loss = F.cross_entropy(module(inputs), labels, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        metric = evaluate_module(module, data.validation, Classification()).metric
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, validation accuracy {metric:.4f}")
    print(f"test accuracy {evaluate_module(module, data.test, Classification()).metric:.4f}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(module.state_dict(), arguments.out)


if __name__ == "__main__":
    main()
