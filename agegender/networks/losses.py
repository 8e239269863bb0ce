"""Losses and metrics of both tasks, and the optimizer with its schedule."""

import math
from collections.abc import Callable

import keras

from agegender import hyperparameters
from agegender.networks import models

Loss = Callable[[keras.KerasTensor, keras.KerasTensor], keras.KerasTensor]

# Losses on the age itself are in units of 20 years, about the spread of UTKFace's ages.
AGE_LOSSES: dict[str, Loss] = {
    "mae": lambda true, predicted: keras.ops.mean(keras.ops.abs(true - predicted), -1) / 20,
    "mse": lambda true, predicted: keras.ops.mean((true - predicted) ** 2, -1) / 400,
    "huber": lambda true, predicted: keras.losses.huber(true / 20, predicted / 20, delta=0.25),
}
# Weight of a teacher's features, whose standard deviations are 1, relative to its answers.
HINT_WEIGHT = 4.0


def mixed(loss: Loss) -> Loss:
    """Return a loss for pictures mixed from two, with labels as in `batches.Batches`."""

    def of_both(labels: keras.KerasTensor, predicted: keras.KerasTensor) -> keras.KerasTensor:
        share = labels[:, 2]
        first, second = (loss(labels[:, k : k + 1], predicted) for k in (0, 1))
        return share * first + (1 - share) * second

    return of_both


def age_distribution(deviation_years: float | keras.Variable) -> Loss:
    """Cross-entropy to a Gaussian around the age (label distribution learning, Gao et al. 2017)."""

    def loss(age_years: keras.KerasTensor, probabilities: keras.KerasTensor) -> keras.KerasTensor:
        years = keras.ops.arange(models.AGE_BINS, dtype="float32")
        target = keras.ops.softmax(-0.5 * ((years - age_years) / deviation_years) ** 2)
        return -keras.ops.sum(target * keras.ops.log(probabilities + 1e-7), axis=-1)

    return loss


def age_exceedance(
    age_years: keras.KerasTensor, probabilities: keras.KerasTensor
) -> keras.KerasTensor:
    """Binary cross-entropy of 'older than k years', summed over k, divided by 10 (OR-CNN)."""
    years = keras.ops.arange(models.AGE_BINS - 1, dtype="float32")
    older = keras.ops.cast(age_years > years, "float32")
    return keras.ops.sum(keras.ops.binary_crossentropy(older, probabilities), axis=-1) / 10


def taught(gender_weight: keras.Variable) -> Loss:
    """Return the loss against a teacher's answers, laid out as in `models.for_training`.

    It adds the cross-entropy of age and gender (knowledge distillation at temperature 1, Hinton et
    al. 2015) and the squared error of the features (hints, Romero et al. 2015).
    """

    def loss(answers: keras.KerasTensor, predicted: keras.KerasTensor) -> keras.KerasTensor:
        ages, gender = slice(0, models.AGE_BINS), slice(models.AGE_BINS, models.AGE_BINS + 1)
        features = slice(models.AGE_BINS + 1, None)
        likelihood = answers[:, ages] * keras.ops.log(predicted[:, ages] + 1e-7)
        of_gender = keras.losses.binary_crossentropy(answers[:, gender], predicted[:, gender])
        hint = keras.ops.mean((answers[:, features] - predicted[:, features]) ** 2, axis=-1)
        return gender_weight * of_gender - keras.ops.sum(likelihood, axis=-1) + HINT_WEIGHT * hint

    return loss


def for_outputs(
    outputs: list[str], config: hyperparameters.Fitting, adjustable: dict[str, keras.Variable]
) -> dict[str, Loss]:
    """Return the loss of each output of a network made by `models.for_training`."""
    losses: dict[str, Loss] = {
        "age": AGE_LOSSES[config.age_loss],
        "gender": keras.losses.binary_crossentropy,
        "age_distribution": age_distribution(adjustable["age_deviation_years"]),
        "age_exceedance": age_exceedance,
        "taught": taught(adjustable["gender_weight"]),
    }
    mixes = config.mixing > 0  # A teacher's answers are mixed beforehand.
    return {
        name: mixed(losses[name]) if mixes and name != "taught" else losses[name]
        for name in outputs
    }


def metrics() -> dict[str, list[keras.metrics.Metric]]:
    """Return MAE and accuracy; a mixed picture counts by the label with the larger share."""

    def first_label(name: str, function: Loss) -> keras.metrics.Metric:
        return keras.metrics.MeanMetricWrapper(lambda y, p: function(y[:, :1], p), name=name)

    return {
        "age": [first_label("mae", keras.losses.mean_absolute_error)],
        "gender": [first_label("accuracy", keras.metrics.binary_accuracy)],
    }


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises from 1/100 of its peak, then falls by a cosine to a share of it.

    adjustable: the variables `learning_rate`, `warmup_steps` and `decay_steps`, so a traced step
        can be reused.
    last_share: final rate as a share of the peak; 1 keeps the peak.
    """

    def __init__(self, adjustable: dict[str, keras.Variable], last_share: float):
        self.peak, self.last_share = adjustable["learning_rate"], last_share
        self.warmup_steps, self.decay_steps = adjustable["warmup_steps"], adjustable["decay_steps"]

    def __call__(self, step: keras.KerasTensor) -> keras.KerasTensor:
        """Return the rate at a step, counted from 0."""
        step = keras.ops.cast(step, "float32")
        rising = self.peak * (0.01 + 0.99 * step / self.warmup_steps)
        done = keras.ops.clip((step - self.warmup_steps) / self.decay_steps, 0.0, 1.0)
        cosine = 0.5 * (1.0 + keras.ops.cos(math.pi * done))
        falling = self.peak * ((1.0 - self.last_share) * cosine + self.last_share)
        return keras.ops.where(step < self.warmup_steps, rising, falling)


def optimizer(
    config: hyperparameters.Fitting, adjustable: dict[str, keras.Variable]
) -> keras.Optimizer:
    """Return the optimizer; its rate rises over the share `warmup` of the steps, then falls.

    The schedule "cosine" ends at 1/1000 of the rate; "constant" does not fall. Weight decay skips
    biases and normalization. Raises KeyError for an unknown optimizer or schedule.

    adjustable: the variables of `WarmUp`, and `weight_decay`.
    """
    last_share = {"cosine": 1e-3, "constant": 1.0}[config.schedule]
    rate = WarmUp(adjustable, last_share)
    decay = adjustable["weight_decay"]
    made = {
        "adamw": lambda: keras.optimizers.AdamW(rate, weight_decay=decay),
        "adam": lambda: keras.optimizers.Adam(rate),
        "sgd": lambda: keras.optimizers.SGD(rate, 0.9, nesterov=True, weight_decay=decay),
    }[config.optimizer]()
    made.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return made
