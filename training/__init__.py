"""Training: what all modalities share, and each modality's own module. ``train.py`` is the way in."""
