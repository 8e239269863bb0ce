"""How good settings are found: search spaces, trials, finalists."""
