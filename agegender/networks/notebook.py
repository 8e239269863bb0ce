"""The two networks of the student notebook that this project began as, layer by layer.

Kept to be trained and compared on the same faces; what they were trained with is the tier
"notebook" of `tuning.spaces`.
"""

import keras


def build_scratch() -> keras.Model:
    """Return the notebook's A: 2,295,026 parameters, input float32 RGB (N, 128, 128, 3) in [0, 1].

    Outputs: age in years (N, 1), never negative, and the probability of gender 1 (N, 1).
    """

    def layers(x, *steps):
        for step in steps:
            x = step(x)
        return x

    def convolution(filters, kernel):
        return keras.layers.Conv2D(filters, kernel, activation="relu")

    images = keras.Input((128, 128, 3), name="image")
    trunk = layers(
        images,
        convolution(8, 3),
        keras.layers.MaxPooling2D(2),
        convolution(16, 3),
        keras.layers.MaxPooling2D(2, strides=1),
        convolution(32, 3),
        keras.layers.MaxPooling2D(2, strides=1),
        keras.layers.Dropout(0.2),
    )
    age = layers(
        trunk,
        convolution(32, 3),
        convolution(64, 2),
        keras.layers.MaxPooling2D(2),
        keras.layers.Dropout(0.1),
        convolution(128, 4),
        convolution(128, 3),
        keras.layers.MaxPooling2D(3),
        keras.layers.Dropout(0.1),
        keras.layers.Flatten(),
        keras.layers.Dense(256, "relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(32, "relu"),
        keras.layers.Dense(1, "relu", dtype="float32", name="age"),
    )
    gender = layers(
        trunk,
        convolution(32, 3),
        convolution(32, 2),
        keras.layers.MaxPooling2D(3),
        keras.layers.Dropout(0.1),
        convolution(64, 4),
        convolution(64, 3),
        keras.layers.MaxPooling2D(3),
        keras.layers.Dropout(0.1),
        keras.layers.Flatten(),
        keras.layers.Dense(256, "relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(128, "relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(1, "sigmoid", dtype="float32", name="gender"),
    )
    return keras.Model(images, [age, gender], name="A")


def build_pretrained(backbone: keras.Model) -> keras.Model:
    """Return the notebook's B on a backbone, frozen: two branches on the flattened feature map.

    With VGG16 it has 19,435,330 parameters, 4,720,642 of them trained. Outputs as `build_scratch`.
    """
    features = keras.layers.Activation("linear", name="features")(backbone.output)
    outputs = []
    for name, activation in (("age", "relu"), ("gender", "sigmoid")):
        x = keras.layers.Dense(512, "relu")(features)
        x = keras.layers.Flatten()(x)
        x = keras.layers.Dense(256, "relu", kernel_regularizer=keras.regularizers.L2(1e-4))(x)
        x = keras.layers.Dropout(0.5)(x)
        outputs.append(keras.layers.Dense(1, activation, dtype="float32", name=name)(x))
    return keras.Model(backbone.input, outputs, name="B")
