"""What an encoder is worth: each evaluation gives names and values."""
