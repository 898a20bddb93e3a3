"""Deepfake detection: what training, evaluation and serving share.

The way of the data: ``images`` (bytes -> upright photo) -> ``faces`` (photo -> boxes and crops)
-> ``views`` (crop -> three normalised views) -> ``model`` (views -> logits) -> ``pipeline``
(logits -> verdict). ``checkpoint`` writes and reads ``saved_model.pth``.
"""

__version__ = "1.0.0"
