"""The stages of a run, in the trainer process: each takes the `Run` and does what a part of its spec says."""
