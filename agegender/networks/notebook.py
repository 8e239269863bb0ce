"""The two networks of the student notebook that this project started as, layer by layer.

They are kept for training and comparison on the same faces. Their training settings are the tier
"notebook" of `tuning.spaces`.
"""

import keras


def build_scratch() -> keras.Model:
    """Return the notebook's A: 2,295,026 parameters, input float32 RGB (N, 128, 128, 3) in [0, 1].

    Outputs: age in years (N, 1), never negative, and the probability of gender 1 (N, 1).
    """
    x = images = keras.Input((128, 128, 3), name="image")
    for filters, stride in ((8, 2), (16, 1), (32, 1)):
        x = keras.layers.Conv2D(filters, 3, activation="relu")(x)
        x = keras.layers.MaxPooling2D(2, strides=stride)(x)
    trunk = keras.layers.Dropout(0.2)(x)

    def branch(filters, first_pool, units):
        x = trunk
        for part, kernels, pool in ((filters[:2], (3, 2), first_pool), (filters[2:], (4, 3), 3)):
            for count, kernel in zip(part, kernels, strict=True):
                x = keras.layers.Conv2D(count, kernel, activation="relu")(x)
            x = keras.layers.MaxPooling2D(pool)(x)
            x = keras.layers.Dropout(0.1)(x)
        x = keras.layers.Dense(256, "relu")(keras.layers.Flatten()(x))
        x = keras.layers.Dropout(0.2)(x)
        return keras.layers.Dense(units, "relu")(x)

    age = branch((32, 64, 128, 128), 2, 32)
    age = keras.layers.Dense(1, "relu", dtype="float32", name="age")(age)
    gender = branch((32, 32, 64, 64), 3, 128)
    gender = keras.layers.Dropout(0.2)(gender)
    gender = keras.layers.Dense(1, "sigmoid", dtype="float32", name="gender")(gender)
    return keras.Model(images, [age, gender], name="A")


def build_pretrained(backbone: keras.Model) -> keras.Model:
    """Return the notebook's B on a frozen backbone: two branches that flatten the feature map.

    With VGG16 it has 19,435,330 parameters and trains 4,720,642. Outputs as in `build_scratch`.
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
