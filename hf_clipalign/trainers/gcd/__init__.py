"""SpectralGCD: known and novel classes learned together."""
