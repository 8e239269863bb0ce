"""The surroundings of every test, set before anything is imported."""

import os

os.environ["MPLBACKEND"] = "Agg"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
# Tests make their own stores and never write into a user's.
os.environ.pop("MLFLOW_TRACKING_URI", None)
