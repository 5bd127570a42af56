//! Measures of a picture: what each is called and needs, conditions on them, what a run asks for, and which of several
//! tries it keeps. docs/evaluation.md defines them. The numbers come from a [`Measurer`]; nothing here looks at a pixel.

mod acceptance;
mod asked;
mod catalogue;
mod expression;
mod measurer;

pub use acceptance::{Acceptance, Condition, Miss, Try};
pub use asked::{Asked, check_task, missing, needed_networks};
pub use catalogue::{Better, MEASURES, Measure, Needs, by_name};
pub use expression::{Expression, ExpressionError, Sign};
pub use measurer::{MeasureError, Measurer, Subject};
