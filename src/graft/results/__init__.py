"""What a run writes: the model folder, its card, predictions, intervals, exports."""
