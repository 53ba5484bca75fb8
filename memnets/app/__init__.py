"""Programs on top of the library: the command line, the translator, the scoreboard, sweeps."""
