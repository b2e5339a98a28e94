"""What a command does, in stages, and the engine that carries them out."""
