"""The two families of networks: each declares its search space and trains one setting from it.

The code that runs trials never asks which family it has.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import keras_tuner
import numpy as np

from agegender import config, hyperparameters
from agegender.data import pixels, splits
from agegender.networks import (
    backbones,
    batches,
    features,
    finetune,
    fit,
    growing,
    models,
    notebook,
    step,
)
from tuning import spaces

FOLDED_SAMPLE = 256  # faces for the statistics of a folded backbone
TEACHERS = 5
ANSWERS = ("age_distribution", "gender", "features")  # layers of a teacher


class Fold(NamedTuple):
    """Rows to train on and to validate on, int (n,) each."""

    train: np.ndarray
    validation: np.ndarray


@dataclasses.dataclass(frozen=True)
class Context:
    """The inputs of a training run besides its setting and faces.

    epochs: of A, or of B's fine-tuning, which follows its head_epochs.
    cache: the folder of fetched weights and cached activations.
    kept: networks and traced steps of earlier training runs.
    """

    settings: config.Settings
    cache: Path
    epochs: int
    seed: int
    hooks: fit.Hooks = fit.NO_HOOKS
    kept: step.Kept = dataclasses.field(default_factory=step.Kept)


class Family(abc.ABC):
    """A network as the search and the final training runs see it.

    record: the class of its hyperparameters. notebook: those of the student notebook's network.
    """

    letter: str
    title: str
    record: type[hyperparameters.Fitting]
    notebook: dict[str, Any]

    @abc.abstractmethod
    def settings(self, settings: config.Settings) -> config.FamilySettings:
        """Return the limits on the work of its search and final training runs."""

    @abc.abstractmethod
    def space(
        self, hp: keras_tuner.HyperParameters, tier: str, cache: Path
    ) -> hyperparameters.Fitting:
        """Declare the search space; return the record of its values."""

    @abc.abstractmethod
    def train(self, setting: Any, faces: pixels.Faces, fold: Fold, context: Context) -> fit.Trained:
        """Build and train a network on a fold's rows; setting: an instance of `record`."""

    def from_values(self, values: dict[str, Any]) -> hyperparameters.Fitting:
        """Return the record of a trial's values."""
        if values.get("architecture") == "notebook":
            values = self.notebook | values
        return self.record.from_values(values)

    def for_epochs(self, values: dict[str, Any], epochs: int, tier: str) -> dict[str, Any]:
        """Return a trial's values, adapted to a final training run of this many epochs."""
        return values

    def first_epochs(self, settings: config.Settings) -> int:
        """Return the number of epochs before those that a search counts."""
        return 0

    def epoch_costs(self, values: dict[str, Any], epochs: int) -> list[float]:
        """Return the cost of each epoch, relative to those of other values of the same network."""
        return [1.0] * epochs

    def backbone(self, values: dict[str, Any]) -> str:
        """Return the name of its pretrained backbone or teacher, or "none"."""
        return values.get("backbone") or values.get("teacher") or "none"


class Scratch(Family):
    """Network A, designed here and trained from scratch."""

    letter, title = "A", "A, trained from scratch"
    record, notebook = hyperparameters.Scratch, spaces.NOTEBOOK_SCRATCH

    def settings(self, settings: config.Settings) -> config.FamilySettings:
        """Return the settings of A."""
        return settings.scratch

    def space(
        self, hp: keras_tuner.HyperParameters, tier: str, cache: Path
    ) -> hyperparameters.Scratch:
        """Declare A's space, which does not depend on the cache."""
        return spaces.scratch(hp, tier)

    def epoch_costs(self, values: dict[str, Any], epochs: int) -> list[float]:
        """Return costs by picture size: 1.8 and 2.7 times at 96 and 128 pixels, relative to 64."""
        setting = hyperparameters.Scratch.from_values(values)
        small_epochs = setting.small_epochs(epochs)
        sizes_pixels = [setting.first_size_pixels] * small_epochs
        sizes_pixels += [setting.internal_size_pixels] * (epochs - small_epochs)
        return [size_pixels**1.45 for size_pixels in sizes_pixels]

    def for_epochs(self, values: dict[str, Any], epochs: int, tier: str) -> dict[str, Any]:
        """Return values with the size, augmentation and mixing for a final training run."""
        longer = spaces.for_epochs(hyperparameters.Scratch.from_values(values), epochs, tier)
        return {name: getattr(longer, name, value) for name, value in values.items()}

    def train(
        self,
        setting: hyperparameters.Scratch,
        faces: pixels.Faces,
        fold: Fold,
        context: Context,
    ) -> fit.Trained:
        """Build and train a network on a fold's rows."""
        layers = setting.layers
        if setting.architecture == "notebook":
            build, layers = notebook.build_scratch, {}
        else:
            build = models.build_scratch
        examples = _examples(faces, fold)
        if setting.teacher:
            answers = teach(faces, fold.train, setting.teacher, context)
            examples = dataclasses.replace(examples, taught=answers)
        network = context.kept.network(
            ("A", context.seed, *_structure(layers)),
            lambda: _seeded(context.seed, lambda: build(**layers)),
        )
        history = growing.train(
            network,
            examples,
            setting,
            epochs=context.epochs,
            seed=context.seed,
            hooks=context.hooks,
            kept=context.kept,
        )
        return fit.Trained(network, history)


class Pretrained(Family):
    """Network B, pretrained on other pictures and fine-tuned."""

    letter, title = "B", "B, pretrained and fine-tuned"
    record, notebook = hyperparameters.Pretrained, spaces.NOTEBOOK_PRETRAINED

    def settings(self, settings: config.Settings) -> config.FamilySettings:
        """Return the settings of B."""
        return settings.pretrained

    def space(
        self, hp: keras_tuner.HyperParameters, tier: str, cache: Path
    ) -> hyperparameters.Pretrained:
        """Declare B's space, with the backbones whose weights are available."""
        # If none is available, building the first one raises the reason.
        available = backbones.available(weights(cache)) or list(backbones.BACKBONES)
        return spaces.pretrained(hp, tier, available)

    def first_epochs(self, settings: config.Settings) -> int:
        """Return the number of epochs in which the head alone is trained."""
        return settings.head_epochs

    def train(
        self,
        setting: hyperparameters.Pretrained,
        faces: pixels.Faces,
        fold: Fold,
        context: Context,
    ) -> fit.Trained:
        """Build and train a network on a fold's rows."""
        settings, known = context.settings, backbones.BACKBONES[setting.backbone]
        structure = _structure(setting.layers | {"architecture": setting.architecture})
        network = context.kept.network(
            ("B", context.seed, setting.backbone, setting.internal_size_pixels, faces.digest)
            + structure,
            lambda: _seeded(context.seed, lambda: self._build(setting, faces, context.cache)),
        )
        unfrozen = setting.unfrozen_share
        if setting.views == "cached":
            # With cached activations, nothing below the cut is trained.
            unfrozen = min(unfrozen, 1 - settings.cut_share)
        return finetune.fine_tune(
            network,
            _examples(faces, fold),
            setting,
            features.Cached(
                folder=context.cache / "features",
                key={
                    "backbone": setting.backbone,
                    "internal_size_pixels": setting.internal_size_pixels,
                    "data": faces.digest,
                },
                cut=_layer_at(known.cut_layers, settings.cut_share),
                views=min(settings.views, max(2, settings.most_views // len(faces.manifest))),
                gigabytes=settings.features_gigabytes,
            ),
            head_epochs=settings.head_epochs,
            epochs=context.epochs,
            unfreeze_from=_layer_at(known.cut_layers, 1 - unfrozen) if unfrozen else None,
            seed=context.seed,
            hooks=context.hooks,
            kept=context.kept,
        )

    def _build(
        self, setting: hyperparameters.Pretrained, faces: pixels.Faces, cache: Path
    ) -> keras.Model:
        """Return the pretrained backbone with an untrained head."""
        load = functools.partial(
            backbones.load,
            setting.backbone,
            faces.pixels.shape[1],
            weights(cache),
            internal_size_pixels=setting.internal_size_pixels,
        )
        backbone = load()
        if backbones.BACKBONES[setting.backbone].folded:
            policy = keras.config.dtype_policy()
            keras.config.set_dtype_policy("float32")  # A GPU's bfloat16 is too coarse to unfold in.
            exact = load() if policy.compute_dtype != "float32" else backbone
            keras.config.set_dtype_policy(policy)
            rows = faces.rows("train")
            sample = faces.pixels[rows[:: max(1, len(rows) // FOLDED_SAMPLE)]]
            backbones.unfold_batch_normalization(exact, sample.astype("float32") / 255)
            backbone.set_weights(exact.get_weights())
        if setting.architecture == "notebook":
            return notebook.build_pretrained(backbone)
        return models.build_pretrained(backbone, **setting.layers)


FAMILIES: dict[str, Family] = {"A": Scratch(), "B": Pretrained()}


def teach(faces: pixels.Faces, rows: np.ndarray, backbone: str, context: Context) -> np.ndarray:
    """Return B's answers for the faces of these rows: float32 (M, 1142), 0 for all others.

    This B is the default head on the frozen features of a backbone. Its age error is 2.9 years on
    faces that it was trained on, 4.7 on others. So each face's answers come from a training run
    without the face and its copies, which only serve to choose the best epoch.

    As in `models.for_training`: the distribution of the age, the probability of gender 1, and the
    backbone's features, each scaled to mean 0 and standard deviation 1 over these rows.
    """
    from sklearn.model_selection import GroupKFold  # takes half a second, rarely needed

    chosen = FAMILIES["B"]
    setting = chosen.from_values(defaults(chosen, context.cache) | {"backbone": backbone})
    hooks = fit.Hooks(on_progress=context.hooks.on_progress)
    context = dataclasses.replace(context, epochs=0, hooks=hooks)
    groups = faces.manifest["group"].to_numpy()[rows]
    found: dict[int, np.ndarray] = {}
    for known, unknown in GroupKFold(TEACHERS).split(rows, groups=groups):
        teacher = chosen.train(setting, faces, Fold(rows[known], rows[unknown]), context).network
        layers = [teacher.get_layer(name).output for name in ANSWERS]
        answering = keras.Model(teacher.input, layers)
        for part in np.array_split(rows[unknown], -(-len(unknown) // 256)):
            answers = answering.predict_on_batch(faces.pixels[part].astype("float32") / 255)
            found |= dict(zip(part, np.concatenate(answers, axis=1), strict=True))
    answers = np.stack([found[row] for row in rows])
    vectors = answers[:, models.AGE_BINS + 1 :]
    vectors -= vectors.mean(0)
    vectors /= vectors.std(0) + 1e-4  # Some features are 0 for all faces.
    whole = np.zeros((len(faces.pixels), answers.shape[1]), np.float32)
    whole[rows] = np.clip(answers, -4, 4)
    return whole


def searched_space(family: Family, tier: str, cache: Path) -> keras_tuner.HyperParameters:
    """Return the hyperparameters that a family declares in a tier, set to their defaults."""
    hp = keras_tuner.HyperParameters()
    family.space(hp, tier, cache)
    return hp


def searched(family: Family, tier: str, cache: Path) -> tuple[list[str], dict[str, Any]]:
    """Return the searched names active at the defaults, and the values that all trials share."""
    hp = searched_space(family, tier, cache)
    fixed = keras_tuner.engine.hyperparameters.Fixed
    constants = {p.name: hp.values[p.name] for p in hp.space if isinstance(p, fixed)}
    return [name for name in hp.values if name not in constants], constants


def typed(space: keras_tuner.HyperParameters, params: dict[str, str]) -> dict[str, Any] | None:
    """Return a run's setting: its parameters, converted from text, and what all trials share.

    None if the space no longer offers one of its choices.
    """
    setting, kinds = dict(space.values), keras_tuner.engine.hyperparameters
    for parameter in space.space:
        name, text = parameter.name, params.get(parameter.name)
        if text is None or name not in setting or isinstance(parameter, kinds.Fixed):
            continue
        kind = type(parameter.default)
        setting[name] = text == "True" if kind is bool else kind(text)
        if isinstance(parameter, kinds.Choice) and setting[name] not in parameter.values:
            return None
    return setting


def defaults(family: Family, cache: Path) -> dict[str, Any]:
    """Return the default values of the full space."""
    return dict(searched_space(family, "full", cache).values)


def trial_epochs(rung: int, faces: pixels.Faces) -> int:
    """Return a trial's epochs: `rung`, or fewer (but not 0) for over 3,500 training faces."""
    share = min(1.0, 3500 / len(faces.rows("train")))
    return max(min(1, rung), round(share * rung))


def weights(cache: Path) -> Path:
    """Return the folder of fetched backbone weights."""
    return cache / "weights"


def _structure(layers: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return the builder arguments that determine the layers' shapes and initial weights."""
    return tuple((name, value) for name, value in layers.items() if name not in step.DROPOUTS)


def _seeded(seed: int, build: Callable[[], keras.Model]) -> keras.Model:
    """Return the network from `build`, with random initial weights from this seed."""
    keras.utils.set_random_seed(seed)
    return build()


def _examples(faces: pixels.Faces, fold: Fold) -> batches.Examples:
    return batches.Examples(
        faces.pixels,
        faces.age_years,
        faces.gender,
        fold.train,
        fold.validation,
        splits.training_floors(faces.manifest),
    )


def _layer_at(cut_layers: tuple[str, ...], share: float) -> str:
    """Return the layer at this share of the backbone's depth."""
    return cut_layers[min(round(share * len(cut_layers)), len(cut_layers) - 1)]
