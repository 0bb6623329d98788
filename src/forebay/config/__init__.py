"""Settings: few, typed, each with a unit, a default and a reason."""
