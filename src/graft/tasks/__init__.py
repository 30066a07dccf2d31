"""What the network is to say of an image, and what follows from it: labels, loss, figures, what its outputs mean."""
