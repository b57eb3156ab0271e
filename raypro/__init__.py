"""raypro: protein language models pre-trained, fine-tuned and compared on Ray, every run in MLflow."""

__version__ = "0.2.0"
