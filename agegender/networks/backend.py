"""The machine under Keras: device, precision, memory."""

import ctypes

import keras


def prepare() -> str:
    """Make operations deterministic, let a GPU's memory grow, compute in bfloat16 on a GPU.

    Call it once, before the first tensor is made. Return the device's name. A CPU keeps float32:
    bfloat16 gained little there.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # Keras has none of these switches.

        # It warns of functions that are traced again: here that is a new network for each trial.
        tf.get_logger().setLevel("ERROR")
        tf.config.experimental.enable_op_determinism()
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        device = f"{len(gpus)} GPU" if gpus else "CPU"
    else:
        device = str(keras.distribution.list_devices()[0]).split(":")[0].upper()
    if device != "CPU":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    return device


def has_accelerator() -> bool:
    """Say whether Keras computes on something else than the CPU."""
    return not keras.distribution.list_devices()[0].lower().startswith("cpu")


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, where it is glibc.

    From the first batch that comes from Python, TensorFlow 2.21 makes it return every block above
    128 KB to the system. Each step then asks for it again, page by page, which takes as long as the
    computation: 640 faces cost 9.6 s of processor time with this call and 14 to 20 s without.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        library.mallopt(trim_threshold, 2**31 - 1)
        library.mallopt(mmap_threshold, 2**30)
