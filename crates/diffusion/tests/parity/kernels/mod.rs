//! The GPU kernels' own source, compiled for a CPU: against float64 over odd shapes, with a mistake in it, and under whole
//! networks. What is not tried here is that a GPU does what CUDA C++ says.

mod agreement;
mod host;
mod mutants;
mod networks;
