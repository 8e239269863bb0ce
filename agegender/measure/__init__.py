"""Numbers from arrays and tables, independent of models and stores."""
