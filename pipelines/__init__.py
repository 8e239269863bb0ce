"""What a person runs: one file a stage or tool; run_all is the whole way."""

import os

# Quiet TensorFlow's start-up notices, and only those, before it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
