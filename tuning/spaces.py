"""The search spaces: one table of ranges and defaults for A and B.

A space declares its parameters on Keras Tuner's HyperParameters and returns the family's record of
them (see `agegender.hyperparameters`). The defaults are good settings on their own and always trial
1. `tier` says how many parameters a search has time for. "short" tries the few that matter most and
leaves the others at their defaults. "quick" also stays on small pictures to the end. "full" tries
all. "notebook" searches nothing and stands for the student notebook's networks and settings.
"""

import contextlib
import dataclasses
from typing import Any

import keras_tuner

from agegender import hyperparameters

TIERS = ("quick", "short", "full", "notebook")
# From this many epochs on, A overfits with the weak augmentation that pays off in fewer.
LONG_EPOCHS = 32
LAST_SIZE_PIXELS = {"short": 96}


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several values; short: also searched when time is short."""

    values: list[Any]
    short: bool = False


@dataclasses.dataclass(frozen=True)
class Real:
    """A number in a range; when: a parameter and the value it needs for this one to count."""

    low: float
    high: float
    sampling: str = "linear"
    short: bool = False
    when: tuple[str, str] | None = None


Table = dict[str, Choice | Real]

SCRATCH: Table = {
    "internal_size_pixels": Choice([64, 96, 128]),
    "first_size_pixels": Choice([0, 48, 64, 96]),
    "stem_filters": Choice([16, 24, 32]),
    "stem_kernel_pixels": Choice([3, 5]),
    "width": Choice([16, 24, 32, 48]),
    "stages": Choice([3, 4, 5]),
    "blocks_per_stage": Choice([1, 2]),
    "extra_block_stage": Choice([-1, 1, 2, 3]),
    "kernel_pixels": Choice([3, 5]),
    "residual": Choice([True, False]),
    "normalization": Choice(["batch", "group", "none"]),
    "activation": Choice(["relu", "swish", "gelu"]),
    "pooling": Choice(["average", "maximum", "flatten"]),
    "trunk_dropout": Real(0.0, 0.5),
    "age_dropout": Real(0.0, 0.6),
    "gender_dropout": Real(0.0, 0.6),
    "age_units": Choice([64, 128, 256]),
    "gender_units": Choice([32, 64, 128]),
    "age_head": Choice(["distribution", "ordinal", "regression"]),
    "age_loss": Choice(["mae", "huber", "mse"]),
    "age_weight": Real(0.3, 5.0, "log", short=True),
    "age_deviation_years": Real(1.0, 5.0, when=("age_head", "distribution")),
    "gender_weight": Real(0.3, 5.0, "log", short=True),
    "optimizer": Choice(["adamw", "adam", "sgd"]),
    "learning_rate": Real(5e-4, 8e-3, "log", short=True),
    "schedule": Choice(["cosine", "constant"]),
    "warmup": Real(0.0, 0.2),
    "weight_decay": Real(5e-3, 2e-1, "log"),
    "batch_size": Choice([32, 64, 128]),
    "augmentation_strength": Real(0.1, 1.5),
    "rotation": Real(0.0, 0.1),
    "zoom": Real(0.0, 0.25),
    "shift": Real(0.0, 0.15),
    "brightness": Real(0.0, 0.3),
    "contrast": Real(0.0, 0.5),
    "erasing": Real(0.0, 0.5),
    "mixing": Real(0.0, 0.5),
}
PRETRAINED: Table = {
    "internal_size_pixels": Choice([128, 160, 192]),
    "trunk_dropout": Real(0.0, 0.5, short=True),
    "age_dropout": Real(0.0, 0.6, short=True),
    "gender_dropout": Real(0.0, 0.6, short=True),
    "age_units": Choice([128, 256, 512]),
    "gender_units": Choice([64, 128, 256]),
    "age_head": Choice(["distribution", "ordinal", "regression"]),
    "age_loss": Choice(["mae", "huber", "mse"]),
    "age_weight": Real(0.3, 5.0, "log"),
    "age_deviation_years": Real(1.0, 5.0, when=("age_head", "distribution")),
    "gender_weight": Real(0.3, 5.0, "log", short=True),
    "head_learning_rate": Real(5e-4, 6e-3, "log", short=True),
    "head_weight_decay": Real(1e-3, 2e-1, "log", short=True),
    "head_batch_size": Choice([64, 128, 256]),
    "learning_rate": Real(1e-5, 5e-4, "log", short=True),
    "weight_decay": Real(1e-3, 1e-1, "log"),
    "warmup": Real(0.0, 0.3),
    "schedule": Choice(["cosine", "constant"]),
    "batch_normalization": Choice(["inference", "update"]),
    "batch_size": Choice([32, 64, 128]),
    # Not 0: the frozen head is part of every training run, and kept if it is better.
    "unfrozen_share": Choice([0.25, 0.5, 0.75], short=True),
    "views": Choice(["cached", "fresh"]),
    "rotation": Real(0.0, 0.1, when=("views", "fresh")),
    "zoom": Real(0.0, 0.25, when=("views", "fresh")),
    "shift": Real(0.0, 0.15, when=("views", "fresh")),
    "brightness": Real(0.0, 0.3, when=("views", "fresh")),
    "contrast": Real(0.0, 0.5, when=("views", "fresh")),
    "erasing": Real(0.0, 0.5, when=("views", "fresh")),
}
# The full tier starts with the released A, which pays off from 50 epochs on. The short one starts
# with what gets furthest in the few epochs that fit into 20 minutes.
SHORT_SCRATCH = {
    "internal_size_pixels": 64,
    "activation": "relu",
    "trunk_dropout": 0.2,
    "augmentation_strength": 0.25,
    "mixing": 0.0,
}
DEFAULTS = {
    # Drawn faces differ more from what the backbone knows than photos do.
    "quick": (SHORT_SCRATCH, {"internal_size_pixels": 128, "learning_rate": 2e-4}),
    "short": (SHORT_SCRATCH, {}),
    "full": ({}, {}),
}
# The notebook's unweighted squared error and cross-entropy, with Adam.
NOTEBOOK = {
    "architecture": "notebook",
    "optimizer": "adam",
    "schedule": "constant",
    "warmup": 0.0,
    "batch_size": 32,
    "age_loss": "mse",
    "age_weight": 400.0,  # undoes the loss's unit of 20 years
    "gender_weight": 1.0,
}
NOTEBOOK_SCRATCH = NOTEBOOK | {
    "learning_rate": 1e-3,
    "first_size_pixels": 0,
    "rotation": 20 / 360,
    "shift": 0.1,
    **dict.fromkeys(("zoom", "brightness", "contrast", "mixing"), 0.0),
}
NOTEBOOK_PRETRAINED = NOTEBOOK | {
    "internal_size_pixels": 128,
    "unfrozen_share": 0.0,
    "head_learning_rate": 1e-4,
    "head_batch_size": 32,
    "head_weight_decay": 0.0,
}


def scratch(hp: keras_tuner.HyperParameters, tier: str) -> hyperparameters.Scratch:
    """Declare network A's parameters; return the record of their values.

    Raises ValueError for an unknown tier.
    """
    _check(tier)
    if tier == "notebook":
        hp.Fixed("architecture", "notebook")
        return hyperparameters.Scratch(**NOTEBOOK_SCRATCH)
    defaults = hyperparameters.Scratch(**DEFAULTS[tier][0])
    # The full tier searches each augmentation's strength separately.
    table = {n: p for n, p in SCRATCH.items() if tier != "full" or n != "augmentation_strength"}
    return dataclasses.replace(defaults, **_declare(hp, table, defaults, tier))


def pretrained(
    hp: keras_tuner.HyperParameters, tier: str, available: list[str]
) -> hyperparameters.Pretrained:
    """Declare network B's parameters; return the record of their values.

    available: the backbones whose weights are on this machine, the preferred one first. The
    notebook's is VGG16 if available. Raises ValueError for an unknown tier.
    """
    _check(tier)
    if tier == "notebook":
        hp.Fixed("architecture", "notebook")
        backbone = hp.Fixed("backbone", "vgg16" if "vgg16" in available else available[0])
        return hyperparameters.Pretrained(backbone=backbone, **NOTEBOOK_PRETRAINED)
    defaults = hyperparameters.Pretrained(backbone=available[0], **DEFAULTS[tier][1])
    table = {"backbone": Choice(available)} | PRETRAINED
    return dataclasses.replace(defaults, **_declare(hp, table, defaults, tier))


def _check(tier: str) -> None:
    if tier not in TIERS:
        raise ValueError(f"The tier must be one of {', '.join(TIERS)}; got {tier!r}.")


def _declare(
    hp: keras_tuner.HyperParameters,
    table: Table,
    defaults: hyperparameters.Fitting,
    tier: str,
) -> dict[str, Any]:
    """Declare a table's parameters in order; return their values.

    A parameter is not declared if the values before it don't meet its `when`.
    """
    values: dict[str, Any] = {}
    for name, searched in table.items():
        default, scope = getattr(defaults, name), contextlib.nullcontext()
        if isinstance(searched, Real) and searched.when:
            parent, needed = searched.when
            if values[parent] != needed:
                continue
            scope = hp.conditional_scope(parent, [needed])
        with scope:
            if tier != "full" and not searched.short:
                values[name] = hp.Fixed(name, default)
            elif isinstance(searched, Real):
                values[name] = hp.Float(
                    name, searched.low, searched.high, default=default, sampling=searched.sampling
                )
            elif isinstance(default, bool):
                values[name] = hp.Boolean(name, default)
            else:
                ordered = not isinstance(default, str)
                values[name] = hp.Choice(name, searched.values, default=default, ordered=ordered)
    return values


def for_epochs(config: hyperparameters.Scratch, epochs: int, tier: str) -> hyperparameters.Scratch:
    """Return A's configuration for a final training run of this many epochs.

    Trials in the tiers with little time see smaller pictures. In their few epochs, the weakest
    augmentation, the least dropout and a narrow network win, even if they lose in LONG_EPOCHS. So
    none of these is searched there. The final run grows from the trials' size to LAST_SIZE_PIXELS,
    and a long one takes its augmentation and mixing from the full tier's defaults.
    """
    if tier in LAST_SIZE_PIXELS:
        config = dataclasses.replace(
            config,
            first_size_pixels=config.internal_size_pixels,
            internal_size_pixels=LAST_SIZE_PIXELS[tier],
        )
    if epochs < LONG_EPOCHS or tier not in ("quick", "short"):
        return config
    full = hyperparameters.Scratch
    return dataclasses.replace(
        config, augmentation_strength=full.augmentation_strength, mixing=full.mixing
    )
