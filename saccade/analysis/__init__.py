"""`saccade analyze`: what a spec costs, counted and not measured."""
