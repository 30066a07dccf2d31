"""Images: where they are, how they are read, varied and batched."""
