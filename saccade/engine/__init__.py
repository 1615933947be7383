"""The machine: device, precision, threads and processes."""
