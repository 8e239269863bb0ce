"""The stages that users run, one file per stage, one command line; run_all does the whole job."""

import agegender  # noqa: F401 - quiets the logs before Keras is imported
