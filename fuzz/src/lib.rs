//! Fuzzing on the stable toolchain, as tests: each target gets the inputs of its corpus (`fuzz/corpus/NAME`), then mutated
//! ones, until its time is over: a third of a second where nothing is said, `FUZZ_SECONDS` each in `make fuzz`. What it
//! gets follows from `FUZZ_SEED`. A target fails by a panic, by taking longer than [`LONGEST`] for one input, or by
//! allocating more than [`MOST`] beyond what it holds itself to; the input is kept in the temporary folder then.

mod mutate;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;

use self::mutate::mutate;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// How long one input may take, on a machine that does other things, too.
pub const LONGEST: Duration = Duration::from_secs(5);

/// How much may be allocated for one input at a time, in bytes.
pub const MOST: usize = 64 << 20;

/// The longest input, in bytes.
const LONGEST_INPUT: usize = 1 << 20;

/// One campaign at a time: what is allocated is counted for the whole process.
static TURN: Mutex<()> = Mutex::new(());

/// Throws inputs at `target`, and counts what it allocates.
///
/// # Panics
/// Where the target breaks a bound, or panics.
pub fn fuzz(name: &str, target: impl Fn(&[u8])) {
    campaign(name, Some(MOST), target);
}

/// The same without a bound of memory, for targets beside which other tests run.
///
/// # Panics
/// Where the target breaks a bound, or panics.
pub fn fuzz_among_others(name: &str, target: impl Fn(&[u8])) {
    campaign(name, None, target);
}

fn campaign(name: &str, most: Option<usize>, target: impl Fn(&[u8])) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "fuzz/corpus/{name} has no input");
    let seed: u64 = variable("FUZZ_SEED").unwrap_or(1);
    let seconds: f64 = variable("FUZZ_SECONDS").unwrap_or(0.3);
    let mut random =
        fastrand::Rng::with_seed(name.bytes().fold(seed, |seed, byte| seed.rotate_left(7) ^ u64::from(byte)));
    for input in &corpus {
        held(name, input, most, &target);
    }
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < until {
        let mut input = corpus[random.usize(..corpus.len())].clone();
        for _ in 0..=random.usize(..6) {
            mutate(&mut input, &corpus, &mut random);
        }
        input.truncate(LONGEST_INPUT);
        held(name, &input, most, &target);
    }
}

/// Runs one input within the bounds.
fn held(name: &str, input: &[u8], most: Option<usize>, target: &impl Fn(&[u8])) {
    ALLOCATOR.reset_peak_usage();
    let (before, began) = (ALLOCATOR.current_usage(), Instant::now());
    let ended = catch_unwind(AssertUnwindSafe(|| target(input)));
    let (took, grown) = (began.elapsed(), ALLOCATOR.peak_usage().saturating_sub(before));
    let too_much = most.is_some_and(|most| grown > most);
    if ended.is_ok() && took <= LONGEST && !too_much {
        return;
    }
    let kept = keep(name, input);
    if let Err(panic) = ended {
        #[allow(clippy::print_stderr, reason = "the panic itself says nothing of the input")]
        {
            eprintln!("the target {name} panicked at {}", kept.display());
        }
        resume_unwind(panic);
    }
    panic!("the target {name} took {took:?} and {} MiB for {}", grown >> 20, kept.display());
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder(name)).into_iter().flatten().flatten().map(|file| file.path()).collect();
    files.sort();
    files.iter().filter_map(|file| std::fs::read(file).ok()).collect()
}

/// Keeps an input that broke a bound: it belongs into the corpus once that is mended.
fn keep(name: &str, input: &[u8]) -> PathBuf {
    let sum = input.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let path = std::env::temp_dir().join(format!("diorama-fuzz-{name}-{sum:016x}"));
    let _ = std::fs::write(&path, input);
    path
}

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "the target query took")]
    fn a_target_that_allocates_too_much_is_found() {
        fuzz("query", |_| drop(std::hint::black_box(vec![0_u8; MOST + 1])));
    }

    #[test]
    fn a_campaign_reaches_what_no_input_of_the_corpus_has() {
        let seen = std::cell::RefCell::new(std::collections::BTreeSet::new());
        fuzz("query", |input| {
            seen.borrow_mut().insert(input.to_vec());
        });
        assert!(seen.borrow().len() > 100, "{}", seen.borrow().len());
    }
}
