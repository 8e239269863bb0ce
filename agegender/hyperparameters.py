"""Hyperparameters of a network: frozen records whose fields are the names used in the search.

The search space returns a record, the journal and MLflow store its fields, and training reads them,
so a hyperparameter looks the same everywhere. The defaults are those of the full space.
"""

import dataclasses
from typing import Any, Self

VIEW_STRENGTHS = ("rotation", "zoom", "shift", "brightness", "contrast", "erasing")
HEAD = ("trunk_dropout", "age_dropout", "gender_dropout", "age_units", "gender_units", "age_head")
TRUNK: tuple[str, ...] = ("internal_size_pixels", "stem_filters", "stem_kernel_pixels", "width")
TRUNK += ("stages", "blocks_per_stage", "extra_block_stage", "kernel_pixels", "residual")
TRUNK += ("normalization", "activation", "pooling")
# B's hyperparameters that do not affect the training of its head alone.
FINE_TUNING: tuple[str, ...] = ("learning_rate", "weight_decay", "batch_size", "unfrozen_share")
FINE_TUNING += ("batch_normalization", "views", *VIEW_STRENGTHS)
# Prefix of the names that an oracle adds to a trial's values for its own use.
OF_ORACLE = "tuner/"


def setting(values: dict[str, Any]) -> dict[str, Any]:
    """Return a trial's values without those that an oracle added."""
    return {name: value for name, value in values.items() if not name.startswith(OF_ORACLE)}


@dataclasses.dataclass(frozen=True)
class Fitting:
    """Hyperparameters of the training that both families share.

    trunk_dropout, age_dropout, gender_dropout: share of units dropped, 0 to 1.
    age_units, gender_units: width of the dense layer of each branch.
    age_head: "distribution", "ordinal" or "regression", see `networks.models.head`.
    age_loss: loss of the age itself, "mae", "huber" or "mse", in units of 20 years.
    age_weight: weight of age_loss beside the loss of the distribution, if there is one.
    age_deviation_years: of the Gaussian around the labelled age; for "distribution" only.
    optimizer: "adamw", "adam" or "sgd". schedule: "cosine" or "constant".
    warmup: share of the steps in which the learning rate rises.
    rotation: in turns. zoom, shift: fractions of the side. brightness, contrast: fractions of the
        range. erasing: probability. Each is the largest change in a random view; 0 is off.
    mixing: parameter of the Beta distribution for mixing pairs of pictures; 0 is off.
    architecture: "notebook" selects the student notebook's own layers.
    """

    trunk_dropout: float = 0.4
    age_dropout: float = 0.3
    gender_dropout: float = 0.4
    age_units: int = 128
    gender_units: int = 64
    age_head: str = "distribution"
    age_loss: str = "mae"
    age_weight: float = 1.0
    age_deviation_years: float = 2.5
    gender_weight: float = 1.2
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float = 5e-2
    batch_size: int = 64
    rotation: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    erasing: float = 0.0
    mixing: float = 0.0
    architecture: str = "agegender"

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Create the record from a trial's values."""
        return cls(**setting(values))

    def small_epochs(self, epochs: int) -> int:
        """Return how many of the epochs see smaller pictures than the finished network."""
        return 0

    @property
    def strengths(self) -> dict[str, float]:
        """The arguments of `batches.RandomView`."""
        return {name: getattr(self, name) for name in VIEW_STRENGTHS}

    @property
    def layers(self) -> dict[str, Any]:
        """The arguments of the builder of the network."""
        return {name: getattr(self, name) for name in HEAD}


@dataclasses.dataclass(frozen=True)
class Scratch(Fitting):
    """Network A: its architecture (see `networks.models.build_scratch`) and its training.

    first_size_pixels: side of the picture in the first half of the epochs, if it is smaller than
        internal_size_pixels; 0 is off.
    augmentation_strength: factor on the strengths of the random views.
    teacher: backbone of a network B whose outputs are learned along with the labels, see
        `tuning.families.teach`; "" for none.
    """

    internal_size_pixels: int = 128
    first_size_pixels: int = 64
    stem_filters: int = 24
    stem_kernel_pixels: int = 3
    width: int = 32
    stages: int = 4
    blocks_per_stage: int = 1
    extra_block_stage: int = 2
    kernel_pixels: int = 3
    residual: bool = True
    normalization: str = "batch"
    activation: str = "swish"
    pooling: str = "average"
    rotation: float = 0.04
    zoom: float = 0.12
    shift: float = 0.08
    brightness: float = 0.2
    contrast: float = 0.3
    mixing: float = 0.3
    augmentation_strength: float = 1.0
    teacher: str = ""

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Create the record from a trial's values."""
        # Settings stored before first_size_pixels existed have none.
        return super().from_values({"first_size_pixels": 0} | values)

    def small_epochs(self, epochs: int) -> int:
        """Return how many of the epochs see pictures of first_size_pixels."""
        # The layer after a flattened map needs one size.
        grows = 0 < self.first_size_pixels < self.internal_size_pixels
        return epochs // 2 if grows and self.pooling != "flatten" else 0

    @property
    def strengths(self) -> dict[str, float]:
        """The arguments of `batches.RandomView`."""
        return {name: self.augmentation_strength * s for name, s in super().strengths.items()}

    @property
    def layers(self) -> dict[str, Any]:
        """The arguments of the builder of the network."""
        return super().layers | {name: getattr(self, name) for name in TRUNK}


@dataclasses.dataclass(frozen=True)
class Pretrained(Fitting):
    """Network B: its backbone, its head, and the schedule of its fine-tuning.

    backbone: a key of `networks.backbones.BACKBONES`.
    internal_size_pixels: side to which the picture is resized, a multiple of 32.
    unfrozen_share: depth of fine-tuning, as a share of the places where the backbone can be cut.
    head_learning_rate, head_weight_decay, head_batch_size: of the first phase, which trains the
        head alone.
    batch_normalization: "inference" keeps statistics, scales and shifts; "update" trains them.
    views: "cached" fine-tunes on activations computed once for a few views of each face; "fresh"
        draws new views from the pixels.
    """

    backbone: str = ""
    internal_size_pixels: int = 160
    trunk_dropout: float = 0.2
    age_units: int = 256
    gender_units: int = 128
    gender_weight: float = 1.5
    learning_rate: float = 5e-5
    weight_decay: float = 1e-2
    warmup: float = 0.1
    head_learning_rate: float = 2e-3
    head_weight_decay: float = 5e-2
    head_batch_size: int = 128
    unfrozen_share: float = 0.75
    batch_normalization: str = "inference"
    views: str = "cached"
    rotation: float = 0.03
    zoom: float = 0.08
    shift: float = 0.06
    brightness: float = 0.15
    contrast: float = 0.2

    @property
    def of_head(self) -> Self:
        """The configuration of the first phase, which trains the head alone."""
        return dataclasses.replace(
            self,
            learning_rate=self.head_learning_rate,
            weight_decay=self.head_weight_decay,
            batch_size=self.head_batch_size,
        )
