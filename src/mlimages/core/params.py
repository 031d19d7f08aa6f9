"""The sections of params.yaml as frozen dataclasses, with the type and range of every parameter.

The comments in params.yaml describe the parameters. Unknown keys and values of another type are errors.
"""

import dataclasses
import math
import re
import string
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from mlimages.core.param_errors import checked, read_yaml

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Pixels = Annotated[int, Field(ge=16, le=2048)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
OUR_HEADERS = {"accept-encoding", "connection", "content-length", "expect", "host", "range", "te", "transfer-encoding",
               "upgrade"}
Seconds = Annotated[float, Field(gt=0, le=86_400)]


@dataclass(frozen=True, config=STRICT)
class Demo:
    """The miniature data set. Two lists together name `train_images`, the two others `val_images`."""

    seed: Seed
    train_images: Annotated[int, Field(ge=20, le=1_000_000)]
    val_images: Annotated[int, Field(ge=10, le=1_000_000)]
    pixels: Pixels


@dataclass(frozen=True, config=STRICT)
class Table:
    """How to read a table: the columns `image`, `labels` (a list: one column a class), `confidence` and `part`, or a
    `query` that has them. `classes` are files; null: the labels that `min_images` images or more have.

    `val_share`, `classes`, `min_images` and `unlabelled` are also for the source folder.
    """

    files: list[Annotated[str, Field(min_length=1)]]
    image: Annotated[str, Field(min_length=1)] | None
    labels: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)] | None
    separator: Annotated[str, Field(min_length=1)] | None
    confidence: Annotated[str, Field(min_length=1)] | None
    part: Annotated[str, Field(min_length=1)] | None
    val_share: Annotated[float, Field(gt=0, lt=1)]
    classes: Annotated[str, Field(min_length=1)] | list[str] | None
    min_images: Count
    unlabelled: bool
    query: Annotated[str, Field(min_length=1)] | None


@dataclass(frozen=True, config=STRICT)
class Acquire:
    """The source of the lists, and the lines to take from them. DVC watches `folder`, so it is never null."""

    source: Literal["demo", "tiny", "full", "folder", "table"]
    folder: Annotated[str, Field(min_length=1)]
    malformed_fraction: Fraction
    limit: Annotated[int, Field(ge=1, le=100_000_000)] | None
    sample: PositiveFraction | None
    seed: Seed
    classes: list[Annotated[str, Field(min_length=1)]]
    complete_ancestors: bool
    table: Table
    demo: Demo


@dataclass(frozen=True, config=STRICT)
class Mirror:
    """Another address for images: `template` with {url}, {scheme}, {host} and {path} of a URL of `host` ("*": any).

    `table` is a CSV file like Open Images' table of image ids. With it, the template may hold {id} and {subset}, and
    applies to the URLs in the table. An image from its own URL must then have the MD5 in the table. A column Rotation
    gives the orientation of images that have none in EXIF.
    """

    template: Annotated[str, Field(min_length=1)]
    host: str = "*"
    table: str | None = None

    def __post_init__(self) -> None:
        known = {"url", "scheme", "host", "path"} | ({"id", "subset"} if self.table else set())
        used = [field for field in string.Formatter().parse(self.template) if field[1] is not None]
        if any(name not in known or form or conversion for _, name, form, conversion in used):
            raise ValueError(f"template is {self.template!r}, expected only {sorted(known)} in braces")


@dataclass(frozen=True, config=STRICT)
class Download:
    """How to request images. A `host` is a registrable domain, such as flickr.com."""

    images_per_shard: Annotated[int, Field(ge=1, le=100_000)]
    connections_per_host: Annotated[int, Field(ge=1, le=64)]
    rate_per_host: Annotated[float, Field(gt=0, le=100_000)]
    attempts: Annotated[int, Field(ge=1, le=20)]
    timeout_seconds: Seconds
    deadline_seconds: Seconds
    min_bytes_per_second: Annotated[float, Field(ge=0, le=1e9)]
    outage_seconds: Annotated[float, Field(ge=0, le=86_400)]
    max_bytes: Annotated[int, Field(ge=1024, le=2**31)]
    max_pixels: Annotated[int, Field(ge=1024, le=178_956_970)]  # Pillow opens nothing larger
    min_bytes: Annotated[int, Field(ge=1, le=2**31)] | None
    min_side: Annotated[int, Field(ge=1, le=65_535)] | None
    max_aspect_ratio: Annotated[float, Field(ge=1, le=65_535)] | None
    shorter_side: Annotated[int, Field(ge=16, le=8192)] | None
    quality: Annotated[int, Field(ge=1, le=100)]
    ports: Annotated[list[Annotated[int, Field(ge=1, le=65_535)]], Field(min_length=1)]
    contact: Annotated[str, Field(pattern=r"^[ -~]{1,200}$")] | None
    headers: Annotated[dict[str, Annotated[str, Field(pattern=r"^[ -~]{1,4096}$")]], Field(max_length=50)]
    verify: bool
    respect_opt_out: bool
    placeholders: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    mirrors: Annotated[list[Mirror], Field(min_length=1)]
    retry: list[str]
    files: Annotated[str, Field(min_length=1)] | None

    def __post_init__(self) -> None:
        for name in self.headers:
            if not HEADER_NAME.fullmatch(name) or name.lower() in OUR_HEADERS:
                raise ValueError(f"headers names {name!r}, expected the name of a request header other than "
                                 f"{', '.join(sorted(OUR_HEADERS))}, which the download sets itself")


@dataclass(frozen=True, config=STRICT)
class Convert:
    """How to write records. The number of shards is given, or null and derived from `shard_mib`."""

    seed: Seed
    imagenet: str | None
    labels: Literal["sparse", "dense"]
    train_shards: Annotated[int, Field(ge=1, le=99_999)] | None
    val_shards: Annotated[int, Field(ge=1, le=99_999)] | None
    shard_mib: Annotated[int, Field(ge=1, le=65_536)] | None
    shorter_side: Annotated[int, Field(ge=16, le=8192)] | None
    quality: Annotated[int, Field(ge=1, le=100)]
    to_srgb: bool
    duplicates: Literal["exact", "near"] | None
    drop_val_duplicates: bool

    def __post_init__(self) -> None:
        if self.drop_val_duplicates and self.duplicates is None:
            raise ValueError("drop_val_duplicates is true, expected duplicates: exact or near, which finds them")
        if (None in (self.train_shards, self.val_shards)) == (self.shard_mib is None):
            raise ValueError(f"train_shards is {self.train_shards}, val_shards {self.val_shards} and shard_mib "
                             f"{self.shard_mib}, expected a number for shard_mib if one of the others is null, and "
                             f"null otherwise")


@dataclass(frozen=True, config=STRICT)
class Train:
    """The network, its input pipeline and its training, which lasts `epochs` or `steps`: the other one is null."""

    seed: Seed
    strategy: Literal["one_device", "mirrored", "multi_worker"]
    architecture: Literal["resnet50", "resnet101", "resnet152", "tiny"]
    initialize_from: str | None
    initialize_logits: bool
    freeze_through: Annotated[str, Field(pattern=r"^stages_[0-9]+$")] | None
    pixels: Pixels
    earlier_pixels: list[Pixels]
    earlier_shares: list[PositiveFraction]
    batch: Annotated[int, Field(ge=1, le=1_000_000)]
    epochs: Annotated[float, Field(gt=0, le=10_000)] | None
    steps: Annotated[int, Field(ge=1, le=1_000_000_000)] | None
    learning_rate: Annotated[float, Field(gt=0, le=100)]
    reference_batch: Annotated[int, Field(ge=1, le=1_000_000)] | None
    warmup: Annotated[float, Field(ge=0, le=1_000_000_000)]
    schedule: Literal["cosine", "step"]
    step_boundaries: list[Annotated[float, Field(ge=0, le=1_000_000_000)]]
    optimizer: Literal["momentum", "adamw"]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    beta_2: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    batch_norm_weight_decay: Annotated[float, Field(ge=0, le=1)]
    layer_decay: PositiveFraction
    clip_norm: Annotated[float, Field(gt=0, le=1e9)] | None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    batch_norm: Literal["local", "synchronized"]
    batch_norm_momentum: Annotated[float, Field(ge=0, lt=1)]
    zero_init_residual: bool
    loss: Literal["class_balanced", "sigmoid", "asymmetric", "focal", "softmax"]
    positive_threshold: PositiveFraction
    negative_selection: Fraction
    positive_weight: Annotated[float, Field(gt=0, le=1000)]
    focal_gamma: Annotated[float, Field(ge=0, le=20)]
    focal_alpha: PositiveFraction
    asymmetric_gamma_negative: Annotated[float, Field(ge=0, le=20)]
    asymmetric_margin: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    class_weights: Literal["inverse_frequency", "inverse_sqrt_frequency"] | None
    dropout: Annotated[float, Field(ge=0, lt=1)]
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"]
    all_reduce_dtype: Literal["float32", "bfloat16", "float16"]
    xla: Literal["auto", "on", "off"]
    gradient_accumulation: Annotated[int, Field(ge=1, le=1024)]
    local_sgd_steps: Annotated[int, Field(ge=1, le=10_000)]
    deterministic: bool
    crop_area: Annotated[list[PositiveFraction], Field(min_length=2, max_length=2)]
    rotate_and_color_jitter: bool
    rand_augment: PositiveFraction | None
    mixup: PositiveFraction | None
    augment_on: Literal["host", "device"]
    image_dtype: Literal["uint8", "float32"]
    shuffle_buffer: Count
    checkpoint_steps: Count
    validation_images: Annotated[int, Field(ge=0, le=1_000_000)]
    validation_fraction: PositiveFraction
    patience: Annotated[int, Field(ge=1, le=1_000_000)] | None
    publish: Literal["last", "best"]

    @property
    def activation(self) -> Literal["sigmoid", "softmax"]:
        """The function that turns logits into probabilities."""
        return "softmax" if self.loss == "softmax" else "sigmoid"

    def __post_init__(self) -> None:
        if self.crop_area[0] > self.crop_area[1]:
            raise ValueError(f"crop_area is {self.crop_area}, expected the smaller share first")
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"epochs is {self.epochs} and steps is {self.steps}, expected one of them, the other null")
        unit, length = ("epochs", self.epochs) if self.steps is None else ("steps", self.steps)
        if length is not None and self.warmup > length:
            raise ValueError(f"warmup is {self.warmup}, expected at most {unit}, {length}")
        if self.step_boundaries and self.schedule != "step":
            raise ValueError(f"step_boundaries is {self.step_boundaries}, which has an effect only with "
                             f"schedule: step")
        if self.class_weights and self.loss == "class_balanced":
            raise ValueError(f"class_weights is {self.class_weights!r}, expected null with loss: class_balanced, which "
                             f"weights the classes itself")
        if self.label_smoothing and self.loss == "asymmetric":
            raise ValueError(f"label_smoothing is {self.label_smoothing}, expected 0 with loss: asymmetric, whose "
                             f"margin it would undo: absent classes within the margin add nothing to that loss")
        for whole, part in (("batch", "gradient_accumulation"), ("checkpoint_steps", "local_sgd_steps")):
            if getattr(self, whole) % (parts := getattr(self, part)):
                raise ValueError(f"{whole} is {getattr(self, whole)}, expected a multiple of {part}, {parts}")
        if self.batch_norm == "synchronized" and (self.gradient_accumulation, self.local_sgd_steps) != (1, 1):
            raise ValueError(f"gradient_accumulation is {self.gradient_accumulation} and local_sgd_steps "
                             f"{self.local_sgd_steps}, expected 1 for both with batch_norm: synchronized, which must "
                             f"see the whole batch at once")
        if self.precision == "mixed_float16" and self.local_sgd_steps > 1:
            raise ValueError(f"local_sgd_steps is {self.local_sgd_steps}, expected 1 with precision: mixed_float16, "
                             f"whose loss scale all replicas share")
        if self.all_reduce_dtype == "float16" and self.local_sgd_steps > 1 and self.optimizer == "adamw":
            raise ValueError(f"all_reduce_dtype is 'float16', expected bfloat16 or float32 with optimizer: adamw and "
                             f"local_sgd_steps: {self.local_sgd_steps}, as the squared gradients are averaged too, and "
                             f"are too small for float16")
        if self.batch_norm == "synchronized" and self.xla == "on":
            raise ValueError("xla is 'on', expected auto or off: XLA cannot compile batch_norm: synchronized")
        if self.freeze_through and self.initialize_from is None:
            raise ValueError(f"freeze_through is {self.freeze_through!r}, expected null without initialize_from: "
                             f"random weights must not be frozen")
        if len(self.earlier_pixels) != len(self.earlier_shares) or sum(self.earlier_shares) >= 1:
            raise ValueError(f"earlier_shares is {self.earlier_shares}, expected a share of the steps for each of "
                             f"earlier_pixels, {self.earlier_pixels}, and together less than 1")
        if self.publish == "best" and not self.validation_images:
            raise ValueError("publish is 'best', expected validation_images above 0, which determine the best")
        if self.patience is not None and not self.validation_images:
            raise ValueError(f"patience is {self.patience}, expected validation_images above 0: patience counts "
                             f"validations")


@dataclass(frozen=True, config=STRICT)
class Evaluate:
    """How to evaluate the network on the validation records."""

    batch: Annotated[int, Field(ge=1, le=100_000)]
    preprocessing: Literal["central", "shorter_side"]
    central_fraction: PositiveFraction
    at_k: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(min_length=1)]
    threshold: PositiveFraction
    score_threshold: PositiveFraction
    frequency_groups: Annotated[list[Count], Field(min_length=1)]
    predictions_kept: Count


@dataclass(frozen=True, config=STRICT)
class TransferDemo:
    """The second miniature world: the pictures of each of its classes, and their side in pixels."""

    seed: Seed
    train_images: Annotated[int, Field(ge=2, le=100_000)]
    val_images: Annotated[int, Field(ge=1, le=100_000)]
    pixels: Pixels


@dataclass(frozen=True, config=STRICT)
class Transfer:
    """The pictures, the network from which a training begins, and how it is trained. DVC watches `folder`, so it is
    never null.

    The images have the sides `pixels` one after the other, each for its share of the steps. `training` replaces
    parameters of `Train`.
    """

    seed: Seed
    source: Literal["demo", "folder"]
    folder: Annotated[str, Field(min_length=1)]
    val_share: Annotated[float, Field(gt=0, lt=1)]
    initialize_from: str | None
    method: Literal["finetune", "linear"]
    compare: bool
    pixels: Annotated[list[Pixels], Field(min_length=1)]
    shares: list[PositiveFraction]
    training: dict[str, Any]
    demo: TransferDemo

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.pixels) or not math.isclose(sum(self.shares), 1):
            raise ValueError(f"shares is {self.shares}, expected a share of the steps for each of pixels, "
                             f"{self.pixels}, and together 1")


@dataclass(frozen=True, config=STRICT)
class Machine:
    """Where and how fast the stages run. These parameters do not affect their results."""

    threads: Annotated[int, Field(ge=1, le=4096)]
    workers: Annotated[int, Field(ge=1, le=1024)]
    engine: Literal["local", "ray"]
    ray_address: Annotated[str, Field(pattern=r"^(auto|local|[A-Za-z0-9._-]+:[0-9]{1,5})$")] | None
    logical_devices: Annotated[int, Field(ge=1, le=64)]
    launcher: Literal["local", "slurm", "ray", "environment"]
    train_workers: Annotated[int, Field(ge=1, le=4096)]
    start_timeout: Seconds
    step_timeout: Seconds
    max_restarts: Annotated[int, Field(ge=0, le=1000)]
    all_reduce: Literal["auto", "ring", "nccl"]
    all_reduce_pack_mib: Annotated[int, Field(ge=0, le=4096)]
    steps_per_call: Annotated[int, Field(ge=1, le=10_000)]
    checkpoints_kept: Annotated[int, Field(ge=1, le=1000)]
    scratch: Annotated[str, Field(min_length=1)]
    connect_to: dict[str, str]
    proxies_from_environment: bool
    download_log: str | None
    progress_seconds: Seconds


@dataclass(frozen=True, config=STRICT)
class Params:
    """All of params.yaml."""

    acquire: Acquire
    download: Download
    convert: Convert
    train: Train
    evaluate: Evaluate
    transfer: Transfer
    machine: Machine


SECTIONS: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Params)}
STAGES = [name for name in SECTIONS if name != "machine"]


def load(path: str | Path = "params.yaml") -> Params:
    """Read params.yaml as DVC reads it. Raises UserError if it is missing, damaged, unsafe, or has a wrong value."""
    return checked(Params, read_yaml(path), str(path), "", SECTIONS)
