"""Keras files in torch's layout: .keras, .weights.h5 and the legacy .h5, read from their datasets only."""

from graft.transfer.donors.keras.file import open_keras

__all__ = ["open_keras"]
