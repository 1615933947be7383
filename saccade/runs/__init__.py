"""Runs that exist: found here or on the tracking server, shown, compared, verified, exported, removed."""
