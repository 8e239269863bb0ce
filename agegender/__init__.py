"""What the data and the models are: from photographs of faces to age and gender."""
