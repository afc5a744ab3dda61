"""Everything a run is told, in one validated record: YAML in and out, and the source of the command line's help."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lana.common.suggestions import near
from lana.config.budget import parse_budget
from lana.config.fields import BOUNDS, flag, option, value_of_type
from lana.errors import UserError

if TYPE_CHECKING:
    from profilers.runtime import RuntimeSettings


# A change of a field invalidates its stage and every later one of the pool; `student` fields make another student of
# the same pool, and `none` fields change nothing that is kept.
FINETUNING = (
    *("epochs", "batch_size", "optimiser", "lr", "warmup", "weight_decay", "distillation", "temperature"),
    *("feature_weight", "augmentation", "mixup", "cutmix", "ema_epochs", "clip_norm", "patience", "precision"),
    "compile",
)

# Of the pool's users: another choice of them needs no other pool.
SELECTING = ("candidates", "score_by", "refine", "calibrate")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to compress, for which device and budget, and how much work to spend on it.

    Raises:
        UserError: a value is of another type or out of its range; the message says what was expected.

    >>> Recipe(model="digits-resnet", budget="0.4x").budget_ratio
    0.4
    >>> Recipe(model="digits-resnet", budget="4.2ms").budget_ms
    4.2
    """

    model: str = option("", "digits-resnet, timm:NAME, torchvision:NAME or path/file.py:function.", stage="teacher")
    weights: str | None = option(None, "safetensors file or state dict to load into MODEL.", stage="teacher")
    model_args: str | None = option(
        None, "Arguments to build MODEL with, e.g. 'num_classes=10,drop_rate=0.1'.", stage="teacher"
    )
    data: str = option(
        "",
        "digits, folder:PATH, parquet:PATH, npz:PATH, hf:NAME or path/file.py:function.",
        stage="teacher",
    )
    task: str = option("classification", "classification, segmentation or path/file.py:Task.", stage="teacher")
    image_size: int | None = option(
        None, "Side of the square input images (default: the model's own).", stage="teacher"
    )
    mean: tuple[float, ...] | None = option(
        None, "Channel means, images in 0…1 (default: the model's own).", stage="teacher"
    )
    std: tuple[float, ...] | None = option(None, "Channel deviations (default: the model's own).", stage="teacher")
    input_shape: tuple[int, ...] | None = option(
        None,
        "Shape of one example without the batch, e.g. 3,32,32 (for what is not an image).",
        stage="teacher",
    )
    layers: str = option(
        "*", "Globs of the layers that may be replaced, comma separated, e.g. 'layer[23].*'.", stage="profile"
    )
    exclude: str = option("", "Globs of layers to leave as they are, comma separated.", stage="profile", added=True)
    granularity: str = option(
        "block", "block, or fine: also inside blocks.", stage="profile", choices=("block", "fine")
    )
    max_span: int = option(3, "Consecutive layers that one operation may stand for, at most.", stage="profile", least=1)
    pool: str = option(
        "default",
        "Operations offered at a layer: presets, families (linear), operations (linear_k3) and .py files, comma "
        "separated; -FAMILY or -OPERATION leaves one out.",
        stage="profile",
    )
    runtime: str = option(
        "onnxruntime-cpu", "What is profiled and promised; `lana runtimes` lists them.", stage="profile"
    )
    threads: int = option(1, "Threads of the runtime.", stage="profile", least=1)
    batch: int = option(1, "Batch size that latency is measured at.", stage="profile", least=1)
    arithmetic: str = option(
        "fp32",
        "Of the runtime, where it lets one choose: fp32, fp16 or bf16.",
        stage="profile",
        choices=("fp32", "fp16", "bf16"),
        added=True,
    )
    affinity: tuple[int, ...] | None = option(
        None, "Logical processors to measure on, e.g. 0,1 (default: the system chooses).", stage="profile", added=True
    )
    device: str = option("cpu", "Where training runs (not what is profiled): cpu or cuda.", stage="none")
    distill_epochs: float = option(
        2.0, "Passes over the distilling images, for each operation.", stage="distill", least=0
    )
    distill_images: int = option(10_000, "Training images to distil on, at most.", stage="distill", least=1)
    distill_batch: int = option(64, "Images a distilling step.", stage="distill", least=1)
    score_images: int = option(1_000, "Training images to score each operation on, at most.", stage="score", least=1)
    seed: int = option(0, "Seed of every random choice.", stage="distill", least=0)
    budget: str = option(
        "", "Latency budget: a share of the teacher's ('0.4x') or milliseconds ('4.2ms').", stage="student"
    )
    candidates: int = option(
        4, "Diverse solutions to measure and evaluate before one is fine-tuned.", stage="student", least=1
    )
    score_by: str = option(
        "distance",
        "distance (of the outputs to the teacher's), task (its loss on labels: the paper's) or feature (error).",
        stage="student",
        choices=("distance", "task", "feature"),
        added=True,
    )
    refine: int = option(
        36,
        "Students whose loss is measured for a budget, to correct the scores; 0 for the paper's plain sum.",
        stage="student",
        least=0,
        added=True,
    )
    calibrate: int = option(
        32,
        "Students measured before the first selection, to correct the sum of their operations' latencies; 0 for none.",
        stage="student",
        least=0,
        added=True,
    )
    epochs: float = option(10.0, "Epochs of fine-tuning; 0 for none.", stage="student", least=0)
    batch_size: int = option(64, "Images a fine-tuning step.", stage="student", least=1)
    lr: float = option(1e-3, "Peak learning rate of fine-tuning; SGD wants 0.01 to 0.1.", stage="student", above=0)
    optimiser: str = option(
        "adamw", "Of fine-tuning: adamw, or sgd (Nesterov, momentum 0.9).", stage="student", choices=("adamw", "sgd")
    )
    warmup: float = option(
        0.1, "Share of fine-tuning in which the rate rises, before its cosine.", stage="student", least=0, below=1
    )
    weight_decay: float = option(0.01, "Of weights in fine-tuning (not of biases).", stage="student", least=0)
    distillation: float = option(
        0.9,
        "Weight of the teacher's outputs; the rest is the labels'. 1 leaves the labels out of the loss.",
        stage="student",
        least=0,
        most=1,
    )
    temperature: float = option(
        1.0, "Both outputs are divided by it before they are compared.", stage="student", above=0
    )
    feature_weight: float = option(
        0.0, "Weight of the distance of features from the teacher's.", stage="student", least=0
    )
    augmentation: str = option(
        "auto",
        "Of fine-tuning: shift (and mirror), crop (and resize), none, or auto: crop from 96 pixels on.",
        stage="student",
        choices=("auto", "shift", "crop", "none"),
    )
    mixup: float = option(0.0, "Alpha of mixup in fine-tuning, e.g. 0.2; 0 for none.", stage="student", least=0)
    cutmix: float = option(0.0, "Alpha of cutmix in fine-tuning, e.g. 1; 0 for none.", stage="student", least=0)
    ema_epochs: float = option(
        0.5, "Epochs that the average of the weights reaches back; 0 for none.", stage="student", least=0
    )
    clip_norm: float = option(5.0, "Largest norm of a fine-tuning gradient.", stage="student", above=0)
    patience: int | None = option(
        None, "Stop after so many epochs without a better validation metric (default: never).", stage="student", least=1
    )
    precision: str = option(
        "auto",
        "Of training (distilling, scoring, fine-tuning): auto (bf16 where the device gains), fp32 or bf16.",
        stage="student",
        choices=("auto", "fp32", "bf16"),
    )
    compile: bool = option(
        False,
        "Compile the student for fine-tuning: a minute or more at first, then up to twice as fast.",
        stage="student",
        added=True,
    )
    processes: int = option(
        1, "Processes that fine-tune together, one a GPU; needs Accelerate.", stage="none", least=1, added=True
    )
    max_minutes: float | None = option(None, "Fit the work to this many minutes.", stage="none", above=0)

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(Recipe)
        for spec in dataclasses.fields(self):
            value = value_of_type(hints[spec.name], spec.name, getattr(self, spec.name))
            object.__setattr__(self, spec.name, value)
            if value is None:
                continue
            for name, holds, expected in BOUNDS:
                bound = spec.metadata.get(name)
                if bound is not None and not holds(value, bound):
                    raise UserError(f"{flag(spec.name)} {value}: expected {expected} {bound}.")
            choices = spec.metadata.get("choices")
            if choices is not None and value not in choices:
                raise UserError(f"{flag(spec.name)} {value!r}: expected one of {', '.join(choices)}.")
        if self.budget:
            parse_budget(self.budget)

    @property
    def runtime_settings(self) -> RuntimeSettings:
        """How the runtime runs, for tables and for students."""
        from profilers.runtime import RuntimeSettings

        return RuntimeSettings(
            threads=self.threads, batch=self.batch, precision=self.arithmetic, affinity=self.affinity
        )

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

    def parts(self, *stages: str) -> dict[str, Any]:
        """The fields that decide the named stages; those `added` later only where they say something."""
        return {
            spec.name: getattr(self, spec.name)
            for spec in dataclasses.fields(self)
            if spec.metadata["stage"] in stages
            and not (spec.metadata.get("added") and getattr(self, spec.name) == spec.default)
        }

    def replace(self, **changes: Any) -> Recipe:
        return dataclasses.replace(self, **changes)

    def seen_from(self, folder: Path | str) -> Recipe:
        """The same recipe for a reader in another folder than the working directory: what is relative is so to that.

        >>> Recipe(model="net.py:mine", data="folder:/images", pool="default,own.py").seen_from("runs").pool
        'default,../own.py'
        """
        return self._moved(Path.cwd(), Path(folder))

    def _moved(self, old: Path, new: Path) -> Recipe:
        def move(path: str) -> str:
            if path.startswith("~") or Path(path).is_absolute():
                return path
            return os.path.relpath(old.resolve() / path, new.resolve())

        def moved(reference: str) -> str:
            kind, colon, place = reference.partition(":")
            if kind.endswith(".py"):
                return f"{move(kind)}{colon}{place}"
            return f"{kind}:{move(place)}" if kind in ("folder", "parquet", "npz") and place else reference

        return self.replace(
            model=moved(self.model),
            data=moved(self.data),
            task=moved(self.task),
            pool=",".join(moved(part.strip()) for part in self.pool.split(",")),
            weights=self.weights and move(self.weights),
        )

    def to_yaml(self, folder: Path | str = ".") -> str:
        """The whole recipe for a file in `folder`, the defaults filled in, each field under its help text."""
        lines = ["# A recipe of lana: `lana compress --recipe FILE` runs it again. Paths are relative to this file."]
        seen = self.seen_from(folder)
        for spec in dataclasses.fields(self):
            value = getattr(seen, spec.name)
            plain = list(value) if isinstance(value, tuple) else value
            text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=1000)
            lines += ["", f"# {spec.metadata['help']}", f"{spec.name}: {text.removesuffix('...' + chr(10)).strip()}"]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_yaml(cls, path: Path | str, **changes: Any) -> Recipe:
        """Read a recipe, the paths in which are relative to its folder; `changes` win over it.

        Raises:
            UserError: the file is missing, not YAML, names an option that does not exist or holds a value amiss.
        """
        try:
            content = yaml.safe_load(Path(path).read_text())
        except OSError as error:
            raise UserError(f"Cannot read the recipe {path}: {error.strerror}. Check the path.") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"The recipe {path} is not valid YAML: {error}") from error
        if not isinstance(content, Mapping):
            raise UserError(
                f"The recipe {path} holds {type(content).__name__}; expected lines like 'model: digits-resnet'."
            )
        known = [spec.name for spec in dataclasses.fields(cls)]
        for name in content:
            if name not in known:
                raise UserError(
                    f"The recipe {path} names the option {name!r}, which does not exist.{near(str(name), known)}"
                )
        return cls(**content)._moved(Path(path).parent, Path.cwd()).replace(**changes)


def fingerprint(value: Any) -> str:
    """A short hash of plain data: equal data, equal hash."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def check_options(given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"{what} has no option {name!r}.{near(name, list(known))}")
