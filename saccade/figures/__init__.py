"""Pictures for people: curves, what the encoder sees, neighbours, clusters. Each function writes one PNG."""
