"""Two sets of weights or many: their contents, their difference, their average."""
