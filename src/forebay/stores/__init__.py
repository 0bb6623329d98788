"""Object stores: one contract, one adapter each."""
