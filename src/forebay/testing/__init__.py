"""What tests, demo and benches share: contracts, real servers, faults.  Nothing in the product imports it."""
