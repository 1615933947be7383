"""Tracking in MLflow, which is imported in this package only, and inside functions only: it takes seconds."""
