"""`skerry torture`: real processes, real faults from a seed, and a judge who knows what was promised."""
