"""From a command line to typed values. Nothing here imports torch, so that a mistake is answered at once."""
