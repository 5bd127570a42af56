//! Distances of sets, against torch-fidelity and CMMD's definition.

use diorama_evaluation::sets::{Moments, cmmd, frechet, kid};

use crate::golden::{Golden, assert_near};

#[test]
fn fid_and_kid_are_torch_fidelitys_and_cmmd_its_sources() {
    let golden = Golden::read();
    let (x, y) = (golden.get("set.x"), golden.get("set.y"));
    let moments = |features: &tch::Tensor| {
        // In two parts, as two shards would.
        let (mut front, mut back) = (Moments::new(12).unwrap(), Moments::new(12).unwrap());
        front.add(&features.narrow(0, 0, 17)).unwrap();
        back.add(&features.narrow(0, 17, features.size()[0] - 17)).unwrap();
        front.merge(&back).unwrap();
        front
    };
    let fid = frechet(&moments(x), &moments(y)).unwrap().unwrap();
    assert_near(fid, golden.number("/sets/fid"), 1e-6, "FID");
    assert_near(kid(x, &y.narrow(0, 0, 40)).unwrap().unwrap().mean, golden.number("/sets/kid"), 1e-6, "KID");
    assert_near(cmmd(x, y).unwrap().unwrap(), golden.number("/sets/cmmd"), 1e-6, "CMMD");
    assert!(frechet(&moments(x), &moments(x)).unwrap().unwrap() < 1e-9);
    assert!(frechet(&Moments::new(12).unwrap(), &moments(x)).unwrap().is_none());
}
