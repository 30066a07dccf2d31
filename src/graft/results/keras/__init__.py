"""A network as a Keras model: the inverse of what transfer/donors/keras reads."""
