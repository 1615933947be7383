"""`saccade analyze`: what a spec costs before it is run."""
