"""Opening a model that a run left behind, and its answers on images."""
