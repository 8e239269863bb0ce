"""Data and models: from photos of faces to age and gender."""

from agegender import logs

logs.quiet()  # Here because every process imports this package before TensorFlow.
