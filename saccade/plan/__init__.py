"""`saccade plan`: what a run will take, measured on its own data and machine before it is paid for."""
