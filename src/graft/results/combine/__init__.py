"""Networks of one architecture as one: soups of fine-tuned runs, and the way from a donor to a run."""
