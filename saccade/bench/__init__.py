"""What we claim about speed, each claim a command: `saccade bench NAME`.

Every benchmark runs beside a straightforward baseline in the same process, on fixed seeds, in rounds that take turns,
so that a busy machine slows both alike.
"""
