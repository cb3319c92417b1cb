"""gansmith: generative adversarial networks from your own data."""

__version__ = "0.1.0"
