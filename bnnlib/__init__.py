"""Binary (1-bit, W1A1) neural networks: quantizers, layers, models, training, records and packed
inference."""

__version__ = "0.1.0"
