"""What a person runs: one file a stage or tool; run_all is the whole way."""
