"""The options of a run, one group a stage: the group that holds an option is the stage that it decides."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lana.config.budget import parse_budget
from lana.config.fields import Options, option

if TYPE_CHECKING:
    from profilers.runtime import RuntimeSettings


@dataclass(frozen=True, kw_only=True)
class TeacherOptions(Options):
    """The network to compress, its data and its task."""

    stage: ClassVar[str | None] = "teacher"

    model: str = option("", "digits-resnet, timm:NAME, torchvision:NAME or path/file.py:function.")
    weights: str | None = option(None, "safetensors file or state dict to load into MODEL.")
    model_args: str | None = option(None, "Arguments to build MODEL with, e.g. 'num_classes=10,drop_rate=0.1'.")
    data: str = option("", "digits, folder:PATH, parquet:PATH, npz:PATH, hf:NAME or path/file.py:function.")
    task: str = option("classification", "classification, segmentation, detection or path/file.py:Task.")
    image_size: int | None = option(
        None, "Side of the square input images (default: the model's own).", least=1, most=65_536
    )
    mean: tuple[float, ...] | None = option(
        None, "Channel means, images in 0…1 (default: the model's own).", least=-1000, most=1000
    )
    std: tuple[float, ...] | None = option(
        None, "Channel deviations (default: the model's own).", least=1e-6, most=1000
    )
    input_shape: tuple[int, ...] | None = option(
        None,
        "Shape of one example without the batch, e.g. 3,32,32 (for inputs other than images).",
        least=1,
        most=2**24,
    )

    image_width: int | None = option(
        None, "Width of the input images where they are not square: --image-size is their height.",
        added=True, least=1, most=65_536,
    )  # fmt: skip
    fit: str | None = option(
        None,
        "How images come to their size: crop (the middle), stretch or letterbox (default: the model's own, or crop).",
        added=True,
    )
    fill: int | None = option(None, "Grey of a letterbox's borders (default: 114).", added=True, least=0, most=255)
    channel_order: str | None = option(
        None,
        "Order of the channels that the network takes: rgb or bgr (default: the model's own, else rgb).",
        added=True,
    )
    decode: str | None = option(
        None,
        "Of detection: the outputs' meaning, path/file.py:function (output → boxes, class scores) or one of "
        "yolo, yolox, ssd, retinanet, detr, fastestdet.",
        added=True,
    )


@dataclass(frozen=True, kw_only=True)
class ProfilingOptions(Options):
    """The layers, the operations offered there, and the runtime that measures them."""

    stage: ClassVar[str | None] = "profile"

    layers: str = option("*", "Globs of the layers that may be replaced, comma separated, e.g. 'layer[23].*'.")
    exclude: str = option("", "Globs of layers to leave as they are, comma separated.", added=True)
    granularity: str = option("block", "block, or fine: also inside blocks.", choices=("block", "fine"))
    max_span: int = option(3, "Consecutive layers that one operation may replace, at most.", least=1, most=1000)
    pool: str = option(
        "default",
        "Operations offered at a layer: presets, families (linear), operations (linear_k3) and .py files, comma "
        "separated; -FAMILY or -OPERATION leaves one out.",
    )
    runtime: str = option("onnxruntime-cpu", "Runtime of the latencies and the budget; `lana runtimes` lists them.")
    threads: int = option(1, "Threads of the runtime.", least=1, most=4096)
    batch: int = option(1, "Batch size that latency is measured at.", name="runtime_batch", least=1, most=65_536)
    runtime_precision: str = option(
        "fp32",
        "Precision of the runtime, where it offers a choice: fp32, fp16 or bf16.",
        choices=("fp32", "fp16", "bf16"),
        added=True,
    )
    precisions: str = option(
        "fp32",
        "Precisions that an operation may have: fp32, or fp32,int8. int8 is offered where it measures faster.",
        added=True,
    )
    affinity: tuple[int, ...] | None = option(
        None,
        "Logical processors to measure on, e.g. 0,1 (default: the system chooses).",
        added=True,
        least=0,
        most=65_535,
    )

    @property
    def runtime_settings(self) -> RuntimeSettings:
        """The settings of the runtime, for tables and for students."""
        from profilers.runtime import RuntimeSettings

        return RuntimeSettings(
            threads=self.threads, batch=self.batch, precision=self.runtime_precision, affinity=self.affinity
        )


@dataclass(frozen=True, kw_only=True)
class DistillingOptions(Options):
    """The training of the pool's operations, and the seed, which every later stage shares."""

    stage: ClassVar[str | None] = "distill"

    epochs: float = option(
        2.0, "Passes over the distilling images, for each operation.", name="distill_epochs", least=0, most=10**6
    )
    images: int = option(10_000, "Training images to distil on, at most.", name="distill_images", least=1, most=10**9)
    batch_size: int = option(64, "Images a distilling step.", name="distill_batch", least=1, most=10**6)
    seed: int = option(0, "Seed of every random choice.", least=0, most=2**32 - 1)
    unit_operations: int = option(
        24,
        "Operations that are trained together, one pass of the teacher a step; fewer let more workers help.",
        least=1,
        added=True,
        most=10**6,
    )
    unit_memory: float = option(2.0, "GiB that operations trained together may take.", above=0, added=True, most=10**4)


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(Options):
    """The amount of data to score each operation on."""

    stage: ClassVar[str | None] = "score"

    images: int = option(
        1_000, "Training images to score each operation on, at most.", name="score_images", least=1, most=10**9
    )


@dataclass(frozen=True, kw_only=True)
class SelectingOptions(Options):
    """The budget and how a selection within it is searched; another choice needs no other pool."""

    stage: ClassVar[str | None] = "student"

    budget: str = option("", "Latency budget: a share of the teacher's ('0.4x') or milliseconds ('4.2ms').")
    proposals: int = option(
        4, "Diverse solutions to measure and evaluate before one is fine-tuned.", least=1, most=10_000
    )
    score_by: str = option(
        "distance",
        "distance (of the outputs to the teacher's), task (its loss on labels: the paper's) or feature (error).",
        choices=("distance", "task", "feature"),
        added=True,
    )
    refine: int = option(
        36,
        "Students whose loss is measured for a budget, to correct the scores; 0 for the paper's plain sum.",
        least=0,
        added=True,
        most=1_000_000,
    )
    calibrate: int = option(
        32,
        "Students measured before the first selection, to correct the sum of their operations' latencies; 0 for none.",
        least=0,
        added=True,
        most=1_000_000,
    )
    max_size_mb: float | None = option(
        None, "Largest file of a student, in megabytes of 10^6 bytes (default: any).", above=0, most=10**9, added=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget:
            parse_budget(self.budget)

    @property
    def budget_ratio(self) -> float | None:
        """The budget as a share of the teacher's latency, where it was given so."""
        value, unit = parse_budget(self.budget)
        return value if unit == "x" else None

    @property
    def budget_ms(self) -> float | None:
        """The budget in milliseconds, where it was given so."""
        value, unit = parse_budget(self.budget)
        return value if unit == "ms" else None


@dataclass(frozen=True, kw_only=True)
class FineTuning(Options):
    """How to fine-tune: one cycle of the learning rate, an exponential moving average of the weights.

    `distillation` of 0.9 relies on the teacher, whose outputs hold more than the labels. `seed` is the run's.
    """

    stage: ClassVar[str | None] = "student"

    epochs: float = option(10.0, "Epochs of fine-tuning; 0 for none.", least=0, most=10**6)
    batch_size: int = option(64, "Images a fine-tuning step.", name="finetune_batch", least=1, most=10**6)
    optimizer: str = option(
        "adamw", "Optimizer of fine-tuning: adamw, or sgd (Nesterov, momentum 0.9).", choices=("adamw", "sgd")
    )
    lr: float = option(1e-3, "Peak learning rate of fine-tuning; SGD needs 0.01 to 0.1.", above=0, most=1000)
    warmup: float = option(0.1, "Share of fine-tuning in which the rate rises, before its cosine.", least=0, below=1)
    weight_decay: float = option(0.01, "Decay of weights in fine-tuning (not of biases).", least=0, most=1000)
    distillation: float = option(
        0.9,
        "Weight of the teacher's outputs; the rest is the labels'. 1 leaves the labels out of the loss.",
        least=0,
        most=1,
    )
    temperature: float = option(1.0, "Both outputs are divided by it before they are compared.", least=1e-3, most=1000)
    feature_weight: float = option(0.0, "Weight of the distance of features from the teacher's.", least=0, most=10**6)
    augmentation: str = option(
        "auto",
        "Augmentation in fine-tuning: shift (and mirror), crop (and resize), none, or auto: crop from 96 pixels on.",
        choices=("auto", "shift", "crop", "none"),
    )
    mixup: float = option(0.0, "Alpha of mixup in fine-tuning, e.g. 0.2; 0 for none.", least=0, most=1000)
    cutmix: float = option(0.0, "Alpha of cutmix in fine-tuning, e.g. 1; 0 for none.", least=0, most=1000)
    ema_epochs: float = option(
        0.5, "Epochs that the average of the weights reaches back; 0 for none.", least=0, most=10**6
    )
    clip_norm: float = option(5.0, "Largest norm of a fine-tuning gradient.", above=0, most=10**12)
    patience: int | None = option(
        None, "Stop after so many epochs without a better validation metric (default: never).", least=1, most=10**6
    )
    precision: str = option(
        "auto",
        "Precision of distilling, scoring and fine-tuning: auto (bf16 where the device gains), fp32 or bf16.",
        name="training_precision",
        choices=("auto", "fp32", "bf16"),
    )
    compile: bool = option(
        False, "Compile the student for fine-tuning: a minute or more at first, then up to twice as fast.", added=True
    )
    seed: int = 0

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that the weights depend on: all but the mode of computation."""
        return {name: value for name, value in asdict(self).items() if name != "compile"}


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(Options):
    """The device of the work and its time limit; a change of these invalidates no finished stage."""

    device: str = option("cpu", "Device of training (not of the latencies): cpu or cuda.")
    processes: int = option(
        1, "Processes that fine-tune together, one a GPU; needs Accelerate.", least=1, added=True, most=1024
    )
    engine: str = option(
        "auto",
        "Computes the units of work: local, processes, ray or ray://HOST:PORT; auto: processes where it is worth it.",
        added=True,
    )
    workers: int | None = option(
        None, "Units at a time (default: as many as processors, or GPUs with cuda).", least=1, added=True, most=100_000
    )
    max_minutes: float | None = option(None, "Fit the work to this many minutes.", above=0, most=10**7)
