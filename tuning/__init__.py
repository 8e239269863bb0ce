"""The hyperparameter search: search spaces, trials, finalists."""

import agegender  # noqa: F401 - silences logs before Keras is imported
