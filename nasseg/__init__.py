"""nasseg finds the best segmentation decoder that fits your budget, and hands you the trained model."""

__version__ = "0.1.0"
