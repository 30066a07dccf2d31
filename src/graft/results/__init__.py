"""What a run leaves behind: weights to share, predictions, figures, a report."""
