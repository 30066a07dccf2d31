"""Tasks: what the network predicts, with the labels, the loss, the metrics, and the meaning of its outputs."""
