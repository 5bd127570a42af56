//! Sums of features and of their products, in float64: `d² + d + 1` numbers, however many pictures.

use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// The moments of some features.
#[derive(Debug)]
pub struct Moments {
    /// How many.
    pub count: u64,
    /// `[d]`, float64.
    sum: Tensor,
    /// `[d, d]`, float64.
    products: Tensor,
}

impl Moments {
    /// Of nothing, for features of `dimension` numbers.
    pub fn new(dimension: i64) -> Result<Self> {
        let options = (Kind::Double, Device::Cpu);
        let (sum, products) = (Tensor::f_zeros([dimension], options)?, Tensor::f_zeros([dimension; 2], options)?);
        Ok(Self { count: 0, sum, products })
    }

    /// From what [`Moments::tensors`] gave.
    pub fn from_tensors(count: u64, sum: Tensor, products: Tensor) -> Self {
        Self { count, sum, products }
    }

    /// Sum `[d]` and sum of products `[d, d]`.
    pub fn tensors(&self) -> (&Tensor, &Tensor) {
        (&self.sum, &self.products)
    }

    /// Adds features `[b, d]`.
    pub fn add(&mut self, features: &Tensor) -> Result<()> {
        let x = features.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
        self.count += x.size()[0] as u64;
        self.sum = self.sum.f_add(&x.f_sum_dim_intlist(&[0_i64][..], false, Kind::Double)?)?;
        self.products = self.products.f_add(&x.f_transpose(0, 1)?.f_matmul(&x)?)?;
        Ok(())
    }

    /// Adds those of other pictures.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.count += other.count;
        self.sum = self.sum.f_add(&other.sum)?;
        self.products = self.products.f_add(&other.products)?;
        Ok(())
    }

    /// Mean `[d]` and unbiased covariance `[d, d]`; `None` of fewer than two.
    pub fn mean_and_covariance(&self) -> Result<Option<(Tensor, Tensor)>> {
        if self.count < 2 {
            return Ok(None);
        }
        let count = self.count as f64;
        let mean = self.sum.f_div_scalar(count)?;
        let outer = self.sum.f_outer(&mean)?;
        Ok(Some((mean, self.products.f_sub(&outer)?.f_div_scalar(count - 1.0)?)))
    }
}
