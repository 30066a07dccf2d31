"""Opens the model of a finished run and predicts images with it."""
