"""Images: where they are, how they are read, varied and batched, and what is kept of them on disk."""
