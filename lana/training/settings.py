"""The settings of fine-tuning."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How to fine-tune: one cycle of the learning rate, an exponential moving average of the weights.

    `distillation` is the weight of the teacher's outputs, the rest goes to the labels; 0.9 leans on the teacher,
    who knows more than the labels do, and 1 leaves the labels out of the loss. `patience` is the number of epochs
    without a better validation metric after which it stops. `lana.config.recipe.Recipe`
    explains the other fields.
    """

    epochs: float = 10.0
    batch_size: int = 64
    optimiser: str = "adamw"
    lr: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    distillation: float = 0.9
    temperature: float = 1.0
    feature_weight: float = 0.0
    augmentation: str = "auto"
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_epochs: float = 0.5
    clip_norm: float = 5.0
    patience: int | None = None
    seed: int = 0
    device: str = "cpu"
    precision: str = "auto"
    compile: bool = False

    @property
    def decisive(self) -> dict[str, Any]:
        """What the weights depend on: all but where it is computed."""
        return {name: value for name, value in asdict(self).items() if name not in ("device", "compile")}
