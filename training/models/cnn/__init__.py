"""Convolutional networks: one file per architecture, `parts.py` for what they are made of."""

from training.models.cnn.config import CNNConfig
from training.models.cnn.model import CNN

__all__ = ["CNN", "CNNConfig"]
