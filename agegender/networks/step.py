"""Prepare a network for training: random views, losses and optimizer in one traced step.

TensorFlow takes seconds to trace a step, several times as long as an epoch of a short trial. So a
step reads from variables all that a setting changes without changing the structure (rates, decay,
weights, dropout, strengths of views). Training runs of the same structure in one process share it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from agegender import hyperparameters
from agegender.networks import backend, batches, losses

# Limit for the pixels kept on an accelerator, and number of steps sent to it at once.
RESIDENT_GIGABYTES = 8.0
STEPS_PER_EXECUTION = 16
# Number of structures whose networks and steps a process keeps.
MOST_KEPT = 8
DROPOUTS = ("trunk_dropout", "age_dropout", "gender_dropout")
# Fields of a configuration that a traced step reads from a variable.
ADJUSTABLE: tuple[str, ...] = ("learning_rate", "weight_decay", "age_weight", "gender_weight")
ADJUSTABLE += ("age_deviation_years", *DROPOUTS, *hyperparameters.VIEW_STRENGTHS)
# Fields that do not affect a step. (Those of the layers need no entry: the network shows them.)
OUTSIDE: tuple[str, ...] = ("warmup", "augmentation_strength", "first_size_pixels")
OUTSIDE += ("head_learning_rate", "head_weight_decay", "head_batch_size")


class ManySteps(keras.Model):
    """A network that is fed several batches at once and makes one step per batch.

    Keras' own `steps_per_execution` still dispatches each step (JAX) or fetches each batch.
    """

    batch_size: int

    def train_step(self, *arguments: Any) -> Any:
        """Make the steps; the last batch may be smaller. Arguments and result are the backend's."""
        if keras.backend.backend() == "jax":
            return self._scan(super().train_step, *arguments)
        return self._loop(super().train_step, *arguments)

    def _loop(self, step: Callable[[Any], Any], data: Any) -> dict[str, Any]:
        inputs, labels = data[:2]

        def one(start: Any) -> tuple[Any]:
            stop = start + self.batch_size
            step((inputs[start:stop], {name: v[start:stop] for name, v in labels.items()}))
            return (stop,)

        keras.ops.while_loop(lambda start: start < keras.ops.shape(inputs)[0], one, (0,))
        return self.get_metrics_result()

    def _scan(self, step: Callable[..., Any], state: Any, data: Any) -> tuple[Any, Any]:
        import jax  # Keras has no scanned step.

        count = data[0].shape[0]
        whole = count - count % self.batch_size
        logs = None
        if whole:
            many = jax.tree.map(
                lambda a: a[:whole].reshape(-1, self.batch_size, *a.shape[1:]), data
            )
            state, logs = jax.lax.scan(lambda *s: step(*s)[::-1], state, many)
            logs = jax.tree.map(lambda a: a[-1], logs)
        if whole < count:
            logs, state = step(state, jax.tree.map(lambda a: a[whole:], data))
        return logs, state


class AdjustableDropout(keras.layers.Layer):
    """Dropout whose rate, 0 to 1, is a variable."""

    def __init__(self, rate: keras.Variable, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = rate
        self.generator = keras.random.SeedGenerator()

    def call(self, inputs: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        """Return the inputs; training sets a share of them to 0."""
        if not training:
            return inputs
        # keras.random.dropout needs a number.
        drawn = keras.random.uniform(keras.ops.shape(inputs), seed=self.generator)
        rate = keras.ops.cast(self.rate, inputs.dtype)
        return keras.ops.where(drawn < self.rate, 0.0, inputs / (1.0 - rate))


@dataclasses.dataclass(frozen=True)
class Step:
    """A network compiled for training.

    trained: the model to fit; it shares its layers with the network it was made for.
    adjustable: one variable per field of ADJUSTABLE, plus `warmup_steps` and `decay_steps`.
    first_seeds: states of the random generators before the first step.
    """

    trained: keras.Model
    adjustable: dict[str, keras.Variable]
    first_seeds: list[np.ndarray]

    def begin(self, config: hyperparameters.Fitting, steps: int) -> None:
        """Reset the step as if never used, and adjust it to a setting and a number of steps.

        The network's weights do not change.
        """
        values = {name: getattr(config, name) for name in ADJUSTABLE} | config.strengths
        values["warmup_steps"] = max(1, round(config.warmup * steps))
        values["decay_steps"] = max(1, steps - values["warmup_steps"])
        for name, value in values.items():
            self.adjustable[name].assign(value)
        for variable in self.trained.optimizer.variables:
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
        for variable, state in zip(_seeds(self.trained), self.first_seeds, strict=True):
            variable.assign(state)


class Kept:
    """Networks and steps of this process's training runs, for later runs of the same structure.

    With JAX nothing is kept, because its traced steps hold the values of variables as constants.
    """

    def __init__(self) -> None:
        self.networks: dict[Any, tuple[keras.Model, list[np.ndarray]]] = {}
        self.steps: dict[Any, Step] = {}
        self.keeps = keras.backend.backend() == "tensorflow"

    def network(self, structure: Any, build: Callable[[], keras.Model]) -> keras.Model:
        """Return an earlier network with its initial weights, or else what `build` makes.

        structure: all that the network and its initial weights depend on, hashable.
        """
        if structure in self.networks:
            network, weights = self.networks[structure]
            network.set_weights(weights)
            return network
        network = build()
        if self.keeps:
            if len(self.networks) >= MOST_KEPT:
                self.networks.clear()
                self.steps.clear()
            self.networks[structure] = network, network.get_weights()
        return network

    def step(
        self,
        network: keras.Model,
        inputs: np.ndarray,
        config: hyperparameters.Fitting,
        seed: int,
        resident: bool,
    ) -> Step:
        """Return an earlier step of the same structure, or else what `make` returns."""
        structure = _structure(network, inputs, config, resident)
        if structure in self.steps:
            return self.steps[structure]
        step = make(network, inputs, config, seed, resident)
        # The layer that predicts a teacher's features is not in the network, so it is not reset.
        if self.keeps and "taught" not in network.output:
            self.steps[structure] = step
        return step


def takes_vectors(network: keras.Model) -> bool:
    """Return whether the network is a head, whose whole epochs fit into memory."""
    return len(network.input.shape) == 2


def on_device(examples: batches.Examples) -> bool:
    """Return whether there is an accelerator with room for the examples' pictures."""
    fits = examples.inputs.nbytes <= RESIDENT_GIGABYTES * 1e9
    return examples.inputs.dtype == np.uint8 and backend.has_accelerator() and fits


def _structure(
    network: keras.Model, inputs: np.ndarray, config: hyperparameters.Fitting, resident: bool
) -> tuple[Any, ...]:
    """Return what two training runs must have in common to share a step."""
    fields = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in (*ADJUSTABLE, *OUTSIDE)
    }
    fields |= {"mixing": config.mixing > 0, "erasing": config.erasing > 0}
    return (
        id(network.get_layer("gender")),  # Kept networks differ in it.
        network.input.name,
        tuple(layer.trainable for layer in network.layers),
        (inputs.dtype.str, inputs.ndim, len(inputs) if resident else 0),
        tuple(fields.items()),
        resident,
    )


def make(
    network: keras.Model,
    inputs: np.ndarray,
    config: hyperparameters.Fitting,
    seed: int,
    resident: bool,
) -> Step:
    """Compile a network for training; if it takes pictures, put random views before it.

    network: as returned by `models.for_training`. resident: whether it keeps the inputs.
    """
    # Not in each training run: seeding makes TensorFlow prepare every traced step anew.
    keras.utils.set_random_seed(seed)
    adjustable = {
        name: keras.Variable(0.0, trainable=False, dtype="float32", name=name)
        for name in (*ADJUSTABLE, "warmup_steps", "decay_steps")
    }

    def adjust(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.layers.Dropout) and layer.name in DROPOUTS:
            return AdjustableDropout(adjustable[layer.name], name=layer.name)
        return layer

    trained = keras.models.clone_model(network, clone_function=adjust)
    if inputs.dtype == np.uint8:
        trained = _with_views(trained, inputs, config, adjustable, seed, resident)
    if resident or takes_vectors(network):
        trained = ManySteps(trained.input, trained.output)
        trained.batch_size = config.batch_size
    outputs = sorted(network.output)
    trained.compile(
        losses.optimizer(config, adjustable),
        loss=losses.for_outputs(outputs, config, adjustable),
        loss_weights={name: adjustable.get(f"{name}_weight", 1.0) for name in outputs},
        metrics=losses.metrics(),
    )
    _make_variables(trained, network, mixed=config.mixing > 0)
    first_seeds = [np.asarray(variable) for variable in _seeds(trained)]
    return Step(trained, adjustable, first_seeds)


def _with_views(
    network: keras.Model,
    inputs: np.ndarray,
    config: hyperparameters.Fitting,
    adjustable: dict[str, keras.Variable],
    seed: int,
    resident: bool,
) -> keras.Model:
    fed = pixels = keras.Input(inputs.shape[1:], dtype="uint8")
    if resident:
        fed = keras.Input((3,)) if config.mixing else keras.Input((1,), dtype="int32")
        pixels = batches.ResidentPictures(inputs)(fed)
    strengths: dict[str, Any] = {name: adjustable[name] for name in hyperparameters.VIEW_STRENGTHS}
    if not config.erasing:
        strengths["erasing"] = 0.0
    view = batches.RandomView(seed=seed, size_pixels=network.input.shape[1], **strengths)
    viewed = network(view(pixels))
    return keras.Model(fed, viewed)


def _make_variables(trained: keras.Model, network: keras.Model, *, mixed: bool) -> None:
    """Make the variables of optimizer, losses and metrics.

    Otherwise TensorFlow traces the step twice, which took two thirds of the time until it ended.
    """
    trained.optimizer.build(trained.trainable_variables)
    answers = {n: keras.ops.zeros((1, *output.shape[1:])) for n, output in network.output.items()}
    labels = {name: keras.ops.zeros((1, 3 if mixed else 1)) for name in network.output}
    labels |= {name: answer for name, answer in answers.items() if name == "taught"}
    trained.compute_loss(y=labels, y_pred=answers)
    trained.compute_metrics(None, labels, answers)


def _seeds(trained: keras.Model) -> list[keras.Variable]:
    return [v for v in trained.variables if v.name == "seed_generator_state"]
