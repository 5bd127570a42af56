//! The command line of Diorama.

fn main() {}
