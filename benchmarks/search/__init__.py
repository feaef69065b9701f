"""The benchmark of search algorithms: problems, contestants, the engine that counts epochs, and statistics."""
