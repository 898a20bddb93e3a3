"""Scoring photos by the million: `deepfake-score`."""
