//! Whole workers on embedded services.
