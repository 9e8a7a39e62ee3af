"""Small pure rules: profiles in, Decisions and a Plan out. Nothing here reads a clock, a file or the network."""
