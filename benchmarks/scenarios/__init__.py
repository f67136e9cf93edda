"""What a server does in situations that no average shows: overload, an unfair neighbour, many connections."""
