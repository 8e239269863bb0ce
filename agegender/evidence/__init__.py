"""From arrays and tables to numbers, pictures and pages; knows no model and no store."""
