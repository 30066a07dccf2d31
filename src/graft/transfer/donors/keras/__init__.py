"""Keras files in torch's layout: .keras, .weights.h5 and the legacy .h5, all by their datasets alone."""

from graft.transfer.donors.keras.file import open_keras

__all__ = ["open_keras"]
