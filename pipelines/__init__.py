"""What a person runs: one file a stage, one command line for all; run_all is the whole way."""

import agegender  # noqa: F401 - logs are kept quiet before Keras is imported
