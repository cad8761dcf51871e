"""The optional membership service comes here: a roster that helps nodes find each other and stops nothing when away."""
