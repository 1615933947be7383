"""Networks: encoders, the heads that training puts on them, and their files."""
