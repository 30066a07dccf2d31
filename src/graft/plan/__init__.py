"""The plan of a run, computed on the meta device before anything is done: immutable and printable."""
