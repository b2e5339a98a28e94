"""The proof that nothing is lost: the real process is killed at every boundary, and at random moments."""
