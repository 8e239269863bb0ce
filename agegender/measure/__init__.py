"""From arrays and tables to numbers; knows no model and no store."""
