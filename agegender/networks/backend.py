"""Device, precision and memory settings of the machine that Keras runs on."""

import ctypes

import keras


def prepare() -> str:
    """Make operations deterministic; on a GPU, let memory grow and compute in bfloat16.

    Call it once, before the first tensor is made. Return the device's name. A CPU keeps float32,
    because bfloat16 gained little there.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # Keras has none of these switches.

        # It warns about retraced functions, but here each trial traces a new network.
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
    """Return whether Keras computes on something other than the CPU."""
    return not keras.distribution.list_devices()[0].lower().startswith("cpu")


def keep_freed_memory() -> None:
    """Make the C library keep freed memory, if it is glibc.

    From the first batch that comes from Python, TensorFlow 2.21 makes it return every block above
    128 KB to the system. Each step then requests them again, page by page, which takes as long as
    the computation. 640 faces cost 9.6 s of processor time with this call and 14 to 20 s without.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        library.mallopt(trim_threshold, 2**31 - 1)
        library.mallopt(mmap_threshold, 2**30)
