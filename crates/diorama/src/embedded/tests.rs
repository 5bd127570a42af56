//! The fleet in one process, with the synthetic generator, against every fault that one process can simulate.
