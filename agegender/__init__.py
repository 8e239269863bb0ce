"""What the data and the models are: from photographs of faces to age and gender."""

from agegender import logs

logs.quiet()  # Here, since every process imports this package before it imports TensorFlow.
