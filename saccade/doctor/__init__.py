"""`saccade doctor`: what is right and wrong with an installation, and the remedy for each problem."""
