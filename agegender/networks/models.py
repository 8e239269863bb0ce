"""The two networks: a picture in [0, 1] in; "age" (years) and "gender" (probability of 1) out.

Both use the same head. Builders take plain named arguments and return uncompiled functional models
of standard Keras layers, so an exported file loads wherever Keras does.
"""

import keras
import numpy as np

# UTKFace's ages run from 1 to 116; bin k of an age distribution stands for k years.
AGE_BINS = 117
# Outputs for training only: the layer before the fixed one that turns it into years.
AGE_LAYERS = {"distribution": "age_distribution", "ordinal": "age_exceedance"}
# A's first layer after the picture is resized. Training draws its random views there: they cost a
# quarter of the step at the full size.
FIRST_LAYER = "scaled"

NORMALIZATIONS = {
    "batch": lambda: keras.layers.BatchNormalization(momentum=0.9),
    "group": lambda: keras.layers.GroupNormalization(8),
    "none": None,
}
POOLINGS = {
    "average": keras.layers.GlobalAveragePooling2D,
    "maximum": keras.layers.GlobalMaxPooling2D,
    "flatten": keras.layers.Flatten,
}


def head(
    x: keras.KerasTensor,
    *,
    age_head: str = "distribution",
    age_units: int = 128,
    gender_units: int = 64,
    age_dropout: float = 0.3,
    gender_dropout: float = 0.4,
    activation: str = "relu",
) -> list[keras.KerasTensor]:
    """Return two branches on a vector: age in years and the probability of gender 1, (N, 1) each.

    age_head "regression" predicts the years directly. "distribution" predicts a softmax over the
    years 0 to 116, whose expected value is the age (DEX, Rothe et al. 2015). "ordinal" predicts the
    probabilities that the age exceeds 0, 1, ... 115 years, whose sum is the age (OR-CNN, Niu et al.
    2016). Outputs are float32 for any compute dtype. Raises ValueError for an unknown age head.
    """
    age = keras.layers.Dense(age_units, activation, name="age_dense")(x)
    age = keras.layers.Dropout(age_dropout, name="age_dropout")(age)
    if age_head == "regression":
        # In units of 20 years around 33, so a head of zeros starts at the mean age.
        age = keras.layers.Dense(1, dtype="float32", name="age_scaled")(age)
        age = keras.layers.Rescaling(20.0, 33.0, dtype="float32", name="age")(age)
    elif age_head in AGE_LAYERS:
        distribution = age_head == "distribution"
        years = np.arange(AGE_BINS) if distribution else np.ones(AGE_BINS - 1)
        age = keras.layers.Dense(
            len(years),
            "softmax" if distribution else "sigmoid",
            dtype="float32",
            name=AGE_LAYERS[age_head],
        )(age)
        expected = keras.layers.Dense(
            1, use_bias=False, trainable=False, dtype="float32", name="age"
        )
        age = expected(age)
        expected.set_weights([years[:, None].astype("float32")])
    else:
        known = ", ".join(["regression", *AGE_LAYERS])
        raise ValueError(f"age_head must be one of {known}; got {age_head!r}.")
    gender = keras.layers.Dense(gender_units, activation, name="gender_dense")(x)
    gender = keras.layers.Dropout(gender_dropout, name="gender_dropout")(gender)
    gender = keras.layers.Dense(1, "sigmoid", dtype="float32", name="gender")(gender)
    return [age, gender]


def build_scratch(
    *,
    image_size_pixels: int = 128,
    internal_size_pixels: int = 128,
    stem_filters: int = 24,
    stem_kernel_pixels: int = 3,
    width: int = 32,
    stages: int = 4,
    blocks_per_stage: int = 1,
    extra_block_stage: int = 2,
    kernel_pixels: int = 3,
    residual: bool = True,
    normalization: str = "batch",
    activation: str = "relu",
    pooling: str = "average",
    trunk_dropout: float = 0.3,
    **head_arguments,
) -> keras.Model:
    """Build network A, our own design: a stem of stride 2, stages that halve the map, the head.

    A stage has blocks of two convolutions (He et al. 2016; if residual, with an average-pooled
    shortcut). Its first block has stride 2. It has twice the filters of the stage before, up to
    8 x width. extra_block_stage (counted from 0; -1 for none) gets one more block. Input float32
    RGB (N, image_size_pixels, image_size_pixels, 3) in [0, 1], resized to internal_size_pixels if
    that is smaller; outputs as in `head`. Raises ValueError if the map would vanish, or would reach
    the first fully connected layer at 10 x 10 or more.
    """
    size_pixels = min(image_size_pixels, internal_size_pixels)
    final_size_pixels = -(-size_pixels // 2 ** (stages + 1))
    if size_pixels < 2 ** (stages + 1) or final_size_pixels >= 10:
        raise ValueError(
            f"{stages} stages turn {size_pixels} pixels into {final_size_pixels}: the map "
            "before the first fully connected layer must be 1 to 9 pixels wide. Change stages."
        )

    def convolution(x, filters, stride=1, kernel=kernel_pixels, activate=True):
        normalize = NORMALIZATIONS[normalization]
        x = keras.layers.Conv2D(filters, kernel, stride, "same", use_bias=normalize is None)(x)
        x = normalize()(x) if normalize else x
        return keras.layers.Activation(activation)(x) if activate else x

    def block(x, filters, stride):
        shortcut = x
        x = convolution(x, filters, stride)
        if not residual:
            return convolution(x, filters)
        x = convolution(x, filters, activate=False)
        if stride > 1:
            shortcut = keras.layers.AveragePooling2D(stride, padding="same")(shortcut)
        if shortcut.shape[-1] != filters:
            shortcut = keras.layers.Conv2D(filters, 1, use_bias=False)(shortcut)
        return keras.layers.Activation(activation)(keras.layers.Add()([x, shortcut]))

    x = images = keras.Input((image_size_pixels, image_size_pixels, 3), name="image")
    if size_pixels < image_size_pixels:
        x = keras.layers.Resizing(size_pixels, size_pixels)(x)
    x = keras.layers.Rescaling(2.0, -1.0, name=FIRST_LAYER)(x)
    x = convolution(x, stem_filters, 2, stem_kernel_pixels)
    for stage in range(stages):
        filters = width * min(2**stage, 8)
        for number in range(blocks_per_stage + (stage == extra_block_stage)):
            x = block(x, filters, 2 if number == 0 else 1)
    x = POOLINGS[pooling]()(x)
    x = keras.layers.Dropout(trunk_dropout, name="trunk_dropout")(x)
    return keras.Model(images, head(x, activation=activation, **head_arguments), name="A")


def build_pretrained(
    backbone: keras.Model, *, trunk_dropout: float = 0.3, **head_arguments
) -> keras.Model:
    """Build network B: a pretrained backbone (image in [0, 1] to feature map), pooling, head."""
    x = keras.layers.GlobalAveragePooling2D(name="features")(backbone.output)
    x = keras.layers.Dropout(trunk_dropout, name="trunk_dropout")(x)
    return keras.Model(backbone.input, head(x, **head_arguments), name="B")


def for_training(
    network: keras.Model, inputs: keras.KerasTensor | None = None, *, teacher_width: int = 0
) -> keras.Model:
    """Return the network, or its part from the tensor `inputs` on, with the outputs for training.

    The outputs are a dict: age, gender and, if the head has one, the layer of AGE_LAYERS. The
    layers are shared, so training it trains the network.

    teacher_width: length of a teacher's answer: its distribution of the age, its probability of
        gender 1 and its features. Above 0, "taught" (N, teacher_width) predicts them. An extra
        layer predicts the features; the head predicts the rest and must be a "distribution".
    """
    outputs = dict(zip(("age", "gender"), network.outputs, strict=True))
    names = {layer.name for layer in network.layers} & set(AGE_LAYERS.values())
    outputs |= {name: network.get_layer(name).output for name in names}
    if teacher_width:
        width, first = teacher_width - AGE_BINS - 1, keras.initializers.GlorotUniform(seed=0)
        features = keras.layers.Dense(width, kernel_initializer=first, dtype="float32")(
            network.get_layer("trunk_dropout").input
        )
        answers = [outputs[AGE_LAYERS["distribution"]], outputs["gender"], features]
        outputs["taught"] = keras.layers.Concatenate(dtype="float32", name="taught")(answers)
    return keras.Model(network.input if inputs is None else inputs, outputs)


def at_size(network: keras.Model, size_pixels: int) -> keras.Model:
    """Return a network of the same layers for pictures of another size (N, size, size, 3).

    No layer may depend on the size, as one after the pooling "flatten" does.
    """
    pictures = keras.Input((size_pixels, size_pixels, 3), name=f"image_{size_pixels}")
    return keras.models.clone_model(
        network, input_tensors=pictures, clone_function=lambda layer: layer
    )


def layers(network: keras.Model) -> list[dict]:
    """Return each layer's name, kind, output shape (without the batch) and parameter count."""
    return [
        {
            "name": layer.name,
            "kind": type(layer).__name__,
            "shape": list(layer.output.shape[1:]),
            "parameters": layer.count_params(),
        }
        for layer in network.layers
    ]
