"""Groups of subcommands of `saccade`, one module each; thin, and what is heavy is imported inside them."""
