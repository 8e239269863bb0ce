"""From pixels to a trained network in a file."""
