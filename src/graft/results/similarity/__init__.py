"""How alike two networks are inside: what their stages make of the same images."""
