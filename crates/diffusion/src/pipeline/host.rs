//! The way back from the device.

use tch::{Device, Tensor};

use crate::error::Result;

/// Tensors of one shape and kind on the CPU, in one transfer.
pub(super) fn copies(tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
    if tensors.iter().all(|x| x.device() == Device::Cpu) {
        return Ok(tensors.iter().map(|x| x.shallow_clone()).collect());
    }
    Ok(Tensor::f_stack(tensors, 0)?.f_to_device(Device::Cpu)?.f_unbind(0)?)
}
