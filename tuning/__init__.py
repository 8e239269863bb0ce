"""How good settings are found: search spaces, trials, finalists."""

import agegender  # noqa: F401 - logs are kept quiet before Keras is imported
