"""Networks: building, training, prediction and export."""
