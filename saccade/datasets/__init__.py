"""Datasets on disk: the published layout, its splits, and how to get there from videos."""
